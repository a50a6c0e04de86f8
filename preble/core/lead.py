"""Who is ahead, and by how much, found without pricing everyone: that settles most decisions.

For workers that differ in load and in what they have cached, not in prices and block size. Who has as much cached as
another is ahead of it by load alone, so only the lightest holders of each level matter. Levels are looked at from the
deepest on, until not even the lightest worker of all could be ahead with so little cached.
"""

from __future__ import annotations

from typing import Any

from preble.core.cached import Cached, Floats, indices

_INFINITE = float("inf")


def lead(load: Floats, cached: Cached, price: float) -> tuple[int, float, float]:
    """Return the slot of least load plus `price` for each token not cached, its cost, and a bound for the others.

    No other slot costs less than the bound. Of equals any is returned, and the bound is its cost.
    """
    levels, length = cached.levels, cached.length
    block: Any = cached.block
    floor: float = load.item(load.argmin())
    best, least, bound = -1, _INFINITE, _INFINITE
    for level in range(len(levels) - 1, -2, -1):
        depth, mask = levels[level] if level >= 0 else (0, (1 << len(load)) - 1)
        usable = depth if depth < length else length - 1
        missing = price * (length - usable + usable % block)
        if floor + missing > least:
            return best, least, floor + missing if floor + missing < bound else bound
        others = mask & ~(1 << best) if best >= 0 else mask
        if others:
            slot, lightest, second = _lightest(load, others)
            if lightest + missing < least:
                bound = min(bound, least, second + missing)
                best, least = slot, lightest + missing
            else:
                bound = min(bound, lightest + missing)
    return best, least, bound


def _lightest(load: Floats, mask: int) -> tuple[int, float, float]:
    """The lightest of these slots, its load, and the least load of the rest of them."""
    if not mask & (mask - 1):
        slot = mask.bit_length() - 1
        return slot, load.item(slot), _INFINITE
    slots = indices(mask)
    first, least, second = two_least(load[slots])
    return int(slots[first]), least, second


def two_least(values: Floats) -> tuple[int, float, float]:
    """Return where the least is, the least, and the least of the rest. Spoils `values`."""
    first = int(values.argmin())
    least, values[first] = values.item(first), _INFINITE
    return first, least, values.item(values.argmin())
