"""Workloads: one file each, a seeded generator of `Request`s."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec


class Request(msgspec.Struct, frozen=True):
    """One request of a workload: `arrival` is in seconds from the beginning, `session` names the prefix it shares."""

    arrival: float
    prompt: str
    max_tokens: int
    session: str


def poisson(rate: float, chance: random.Random) -> Iterator[float]:
    """Yield arrival times without end, in seconds, `rate` a second on average."""
    now = 0.0
    while True:
        now += chance.expovariate(rate)
        yield now


def zipf(count: int, exponent: float) -> list[float]:
    """Return `count` weights, the first the heaviest: rank to the power of `-exponent`; 0 makes all alike."""
    return [rank**-exponent for rank in range(1, count + 1)]
