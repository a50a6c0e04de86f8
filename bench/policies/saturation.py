"""The largest rate at which a condition holds, by doubling steps and then by halving them."""

from __future__ import annotations

from collections.abc import Callable

PRECISION = 1.04
"""The rate found holds; this many times it does not."""
FIRST_STEP = 1.15
FARTHEST = 32.0
"""How far from where it starts a search goes, as a factor."""


def largest(holds: Callable[[float], bool], start: float, precision: float = PRECISION) -> float:
    """Return the largest rate for which `holds`, to a factor of `precision`; it starts to look at `start`.

    Returns 0 if it holds for no rate down to `start` / 32, and `start` * 32 if it holds for all up to there.
    """
    low, high = _bracket(holds, start)
    while low and high / low > precision:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _bracket(holds: Callable[[float], bool], start: float) -> tuple[float, float]:
    """Return a rate for which it holds, 0 for none, and a larger one for which it does not."""
    up = holds(start)
    rate, factor = start, FIRST_STEP
    while 1 / FARTHEST < rate / start < FARTHEST:
        following = _clip(rate * factor if up else rate / factor, start)
        if holds(following) != up:
            return (rate, following) if up else (following, rate)
        rate, factor = following, factor * factor
    return (rate, rate) if up else (0.0, rate)


def _clip(rate: float, start: float) -> float:
    return min(max(rate, start / FARTHEST), start * FARTHEST)
