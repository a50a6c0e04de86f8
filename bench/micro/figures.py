"""Figures with their spread: medians over rounds, and ratios of two sides that alternate within each round."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = Sequence[float] | NDArray[Any]
Round: TypeAlias = Callable[[int], float]
"""Measures one side once; gets the number of the round."""


class Figures:
    """`metrics` are medians over rounds, `spread` their 10th and 90th percentile, by the same names."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.spread: dict[str, list[float]] = {}

    def note(self, name: str, rounds: Values) -> None:
        """Take a figure's value in each round."""
        low, median, high = np.percentile(rounds, (10, 50, 90))
        self.metrics[name] = float(median)
        self.spread[name] = [float(low), float(high)]

    def compare(self, name: str, first: Round, second: Round, rounds: int) -> tuple[list[float], list[float]]:
        """Measure both sides in each round, in turns the first of the two; note the ratio second / first."""
        pairs = [alternated(first, second, number) for number in range(rounds)]
        self.note(name, [other / one for one, other in pairs])
        return [one for one, _ in pairs], [other for _, other in pairs]


def alternated(first: Round, second: Round, number: int) -> tuple[float, float]:
    """Measure both, the second one before the first in odd rounds."""
    if number % 2:
        other = second(number)
        return first(number), other
    return first(number), second(number)


def turns(sides: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield the sides of each round with its number: another one begins, and every other round runs backwards."""
    for number in range(rounds):
        start = number % len(sides)
        order = [*sides[start:], *sides[:start]]
        yield from ((number, side) for side in (order[::-1] if number % 2 else order))


def micro(nanoseconds: Values, percentile: float = 50) -> float:
    """Return a percentile in microseconds."""
    return float(np.percentile(nanoseconds, percentile)) / 1e3


def calibrate(repeats: int = 50) -> list[float]:
    """Return microseconds to pack 8k integers, a measure of this machine at this moment."""
    integers = list(range(1 << 20, (1 << 20) + 8192))
    return [_timed(integers) for _ in range(repeats)]


def _timed(integers: Sequence[int]) -> float:
    began = time.perf_counter_ns()
    struct.pack("<8192i", *integers)
    return (time.perf_counter_ns() - began) / 1e3
