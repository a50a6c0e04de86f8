"""From a worker's GPUs to vLLM's options. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preble.backends.parallel import parallel_options
from preble.backends.worker_seed import worker_seed


def bind(options: Mapping[str, Any], devices: int, threads: int) -> dict[str, Any]:
    """Return the options with which all GPUs compute one replica. vLLM reads the threads from the environment.

    Raises ConfigurationError if the options are for another number of GPUs.
    """
    return parallel_options(options, devices, tensor="tensor_parallel_size", pipeline="pipeline_parallel_size")


def seed(seed: int, worker: int) -> dict[str, Any]:
    """Return the option by which the worker of this number draws for requests without a seed."""
    return {"seed": worker_seed(seed, worker)}
