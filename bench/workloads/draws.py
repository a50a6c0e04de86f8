"""Seeded draws by inverse distribution functions, the same on every version of Python."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import TypeVar

Quantile = Callable[[float], int]
"""From a uniform number in (0, 1) to a draw of a distribution."""

T = TypeVar("T")

_NORMAL = NormalDist()
_SMALLEST = 1e-12


def chance(workload: str, seed: int, purpose: str) -> random.Random:
    """Return a source of randomness of its own for each purpose, so that a change of one does not move the others."""
    return random.Random(f"{workload}:{seed}:{purpose}")


def normal(mean: float, deviation: float, low: int, high: int) -> Quantile:
    """A normal distribution, rounded and clipped to [low, high]."""
    return lambda uniform: _clip(mean + deviation * _standard(uniform), low, high)


def lognormal(mean: float, deviation: float, low: int, high: int) -> Quantile:
    """A log-normal distribution of that arithmetic mean and standard deviation, rounded and clipped to [low, high]."""
    sigma = math.sqrt(math.log1p((deviation / mean) ** 2))
    center = math.log(mean) - sigma * sigma / 2
    return lambda uniform: _clip(math.exp(center + sigma * _standard(uniform)), low, high)


def table(points: str) -> Quantile:
    """A distribution given as `0:a .05:b ... 1:z`, log-linear between its quantiles."""
    return lambda uniform: round(continuous(points)(uniform))


def continuous(points: str) -> Callable[[float], float]:
    """The same, not rounded."""
    pairs = [tuple(map(float, point.split(":"))) for point in points.split()]
    quantiles, logs = [pair[0] for pair in pairs], [math.log(pair[1]) for pair in pairs]

    def draw(uniform: float) -> float:
        above = min(bisect_right(quantiles, uniform), len(quantiles) - 1)
        share = (uniform - quantiles[above - 1]) / (quantiles[above] - quantiles[above - 1])
        return math.exp(logs[above - 1] + share * (logs[above] - logs[above - 1]))

    return draw


def draws(quantile: Callable[[float], T], source: random.Random) -> Iterator[T]:
    """Independent draws without end."""
    while True:
        yield quantile(source.random())


def stratified(quantile: Callable[[float], T], count: int, source: random.Random) -> list[T]:
    """Return `count` draws that follow the distribution exactly, in random order."""
    return shuffled([quantile((index + 0.5) / count) for index in range(count)], source)


def shuffled(items: Sequence[T], source: random.Random) -> list[T]:
    """Return the items in random order."""
    return [item for _, _, item in sorted((source.random(), index, item) for index, item in enumerate(items))]


def popular(weights: Sequence[float], source: random.Random) -> Iterator[int]:
    """Indices without end, each as often as its weight says."""
    cumulated = list(itertools.accumulate(weights))
    while True:
        yield bisect_right(cumulated, source.random() * cumulated[-1], hi=len(cumulated) - 1)


def weighted(
    lengths: list[int], weights: Sequence[float], source: random.Random, *, tolerance: float = 0.03
) -> list[int]:
    """Reorder lengths until the popular ones are as long as the others: their weighted mean is near the plain one."""
    plain = sum(lengths) / len(lengths)
    while True:
        mean = sum(map(float.__mul__, map(float, lengths), weights)) / sum(weights)
        if abs(mean - plain) <= tolerance * plain:
            return lengths
        lengths = shuffled(lengths, source)


def exponential(mean: float) -> Callable[[float], float]:
    """An exponential distribution."""
    return lambda uniform: -mean * math.log(max(_SMALLEST, 1 - uniform))


def _standard(uniform: float) -> float:
    return _NORMAL.inv_cdf(min(max(uniform, _SMALLEST), 1 - _SMALLEST))


def _clip(value: float, low: int, high: int) -> int:
    return min(max(round(value), low), high)
