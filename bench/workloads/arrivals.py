"""When requests come: times in seconds from the beginning, ascending, without end."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import count

from bench.workloads.draws import exponential, lognormal

_OFF = lognormal(36, 50, 0, 100_000)


def poisson(rate: float, source: random.Random) -> Iterator[float]:
    """Arrivals independent of each other, `rate` a second."""
    gap, now = exponential(1 / rate), 0.0
    while True:
        now += gap(source.random())
        yield now


def azure_code(source: random.Random) -> Iterator[float]:
    """Code completions of Azure in 2023: about 3.3 a second in bursts, with silences of half a minute.

    On and off; when on, low and high phases; in each, Poisson batches of requests milliseconds apart.
    """
    now = 0.0
    while True:
        end = now + _weibull(20.0, 1.3, source.random())
        factor = math.exp(source.gauss(-0.125, 0.5))
        high = source.random() < 4 / 34
        while now < end:
            phase = min(end, now + exponential(4.0 if high else 30.0)(source.random()))
            yield from _batches(now, phase, 32.0 if high else 7.0 * factor, source)
            now, high = phase, not high
        now = end + 5.0 + _OFF(source.random())


def azure_conversation(source: random.Random) -> Iterator[float]:
    """Conversations of Azure in 2023: 5.6 a second, Poisson with a rate that drifts over minutes."""
    level, keep = 0.0, math.exp(-1 / 430)
    for second in count():
        level = keep * level + math.sqrt(1 - keep * keep) * source.gauss(0, 0.25)
        rate = 5.6 * math.exp(level - 0.25**2 / 2)
        for arrival in poisson(rate, source):
            if arrival >= 1:
                break
            yield second + arrival


def _batches(begin: float, end: float, rate: float, source: random.Random) -> Iterator[float]:
    """Batches are Poisson; each goes on with another request with probability 0.32."""
    late = begin
    for arrival in poisson(0.68 * rate, source):
        at = begin + arrival
        if at >= end:
            return
        while True:
            late = max(late, at)
            yield late
            if source.random() >= 0.32:
                break
            at += exponential(0.0015)(source.random())


def _weibull(mean: float, shape: float, uniform: float) -> float:
    return mean / math.gamma(1 + 1 / shape) * (-math.log1p(-uniform)) ** (1 / shape)
