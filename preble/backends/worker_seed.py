"""One seed for each worker of a cluster, for engines whose random numbers depend on nothing else."""

from __future__ import annotations

_FACTOR = 1_000_003  # so that no two clusters with neighbouring seeds share one
_BELOW = 1 << 31  # what every engine takes


def worker_seed(seed: int, worker: int) -> int:
    """Return the seed, below 2**31, of the worker of this number in a cluster with `seed`."""
    return (seed * _FACTOR + worker) % _BELOW
