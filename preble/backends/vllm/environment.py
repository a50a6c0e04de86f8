"""Environment variables that vLLM reads when it is imported, set here if the user has not set them."""

from __future__ import annotations

import os
from pathlib import Path

_DEFAULTS = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; by default each worker would take most of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # by default each worker would pin itself to the same cores
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # on a CPU: the model runs in the engine core's process, or in ours
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_SOCKETS = "VLLM_RPC_BASE_PATH"


def prepare(model: str, folder: Path) -> None:
    """Set the variables. `folder` is for the sockets between vLLM's processes; a model on disk needs no network."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(_SOCKETS, str(folder))
    if Path(model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def forget(folder: Path) -> None:
    """Unset the variable with the folder, which is removed next: a later engine in this process has its own."""
    if os.environ.get(_SOCKETS) == str(folder):
        del os.environ[_SOCKETS]
