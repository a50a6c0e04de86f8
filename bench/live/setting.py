"""What a live run and its simulation have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bench.engines import engine_options
from preble import PrebleCluster
from preble.core.cost import CostModel
from preble.simulate import SimOptions
from preble.simulate.request import VOCABULARY

UNBOUNDED = (1 << 31) - 1
"""A vocabulary larger than any."""
SECONDS_TO_START = 300.0


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Engines of one kind: `model` and `backend` as `PrebleCluster` takes them, sizes in tokens.

    `options` are given to the engine beside the sizes. Live prompts are taken modulo `vocabulary`.
    """

    backend: str
    model: str | None
    workers: int
    kv_tokens: int
    context_limit: int
    block_size: int
    max_running: int
    max_batched_tokens: int
    vocabulary: int = UNBOUNDED
    options: dict[str, Any] = {}

    def cluster(self, policy: str, **arguments: Any) -> PrebleCluster:
        """Return a cluster, not yet started; `arguments` are more of PrebleCluster's."""
        return PrebleCluster(
            self.model,
            backend=self.backend,
            workers=self.workers,
            policy=policy,
            engine_options=engine_options(self.backend, **self._sizes()) | self.options,
            start_timeout=SECONDS_TO_START,
            **arguments,
        )

    def simulated(self, cost: CostModel) -> SimOptions:
        """Return a simulated engine of the same sizes. It takes all tokens of the workloads."""
        return msgspec.convert({"vocab_size": VOCABULARY, "cost": cost} | self._sizes(), SimOptions)

    def _sizes(self) -> dict[str, int]:
        names = ("kv_tokens", "context_limit", "block_size", "max_running", "max_batched_tokens")
        return {name: getattr(self, name) for name in names}


def vocabulary_of(model: str | None) -> int:
    """Return the size of a model folder's vocabulary; without one, no bound that a workload's tokens would meet."""
    path = Path(model or "") / "config.json"
    if model is None or not path.is_file():
        return UNBOUNDED
    return int(msgspec.json.decode(path.read_bytes())["vocab_size"])
