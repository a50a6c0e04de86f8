"""The largest rate at which a condition holds, by doubling steps and then by halving them."""

from __future__ import annotations

from collections.abc import Callable

PRECISION = 1.04
"""The rate found holds; this many times it does not."""
FIRST_STEP = 1.15


def largest(
    holds: Callable[[float], bool], start: float, lowest: float, highest: float, precision: float = PRECISION
) -> float:
    """Return the largest rate for which `holds`, to a factor of `precision`; it starts to look at `start`.

    Returns 0 if it does not hold even for `lowest`, and `highest` if it holds for that too.
    """
    low, high = _bracket(holds, min(max(start, lowest), highest), lowest, highest)
    while low and high / low > precision:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _bracket(holds: Callable[[float], bool], start: float, lowest: float, highest: float) -> tuple[float, float]:
    """Return a rate for which it holds, 0 for none, and one for which it does not, or the same if there is none."""
    up, rate, factor = holds(start), start, FIRST_STEP
    while rate != (highest if up else lowest):
        following = min(rate * factor, highest) if up else max(rate / factor, lowest)
        if holds(following) != up:
            return (rate, following) if up else (following, rate)
        rate, factor = following, factor * factor
    return (rate, rate) if up else (0.0, rate)
