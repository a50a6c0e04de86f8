"""When requests come: times in seconds from the beginning, ascending, without end."""

from __future__ import annotations

import random
from collections.abc import Iterator

from bench.workloads.draws import exponential


def poisson(rate: float, source: random.Random) -> Iterator[float]:
    """Arrivals independent of each other, `rate` a second."""
    gap, now = exponential(1 / rate), 0.0
    while True:
        now += gap(source.random())
        yield now
