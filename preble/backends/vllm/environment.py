"""What vLLM reads from the environment: set before it is imported, where the user has not."""

from __future__ import annotations

import os
from pathlib import Path

_DEFAULTS = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; else each worker would want most of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else each worker would pin itself to the same cores
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # on a CPU: the model in the core's process, or in ours
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_SOCKETS = "VLLM_RPC_BASE_PATH"


def prepare(model: str, folder: Path) -> None:
    """Set the variables. A model on disk needs no network; `folder` takes the sockets between vLLM's processes."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(_SOCKETS, str(folder))
    if Path(model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def forget(folder: Path) -> None:
    """Take back what names the folder, which is about to go: a later engine of this process has its own."""
    if os.environ.get(_SOCKETS) == str(folder):
        del os.environ[_SOCKETS]
