from __future__ import annotations

from typing import Any

from bench.live.setting import Setting


def small(backend: str, **options: Any) -> Setting:
    """Two workers that hold little."""
    return Setting(
        backend=backend,
        model=None,
        workers=2,
        kv_tokens=4096,
        context_limit=2048,
        block_size=16,
        max_running=8,
        max_batched_tokens=128,
        options=options,
    )
