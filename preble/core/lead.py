"""Who is ahead, and by how much, found without pricing everyone: that settles most decisions.

For workers that differ in load, in requests and in what they have cached, not in prices and block size. Levels of what
is cached are looked at from the deepest on, until not even the lightest worker of all could be ahead with so little.
"""

from __future__ import annotations

from typing import Any

from preble.core.cached import Cached, Floats, indices
from preble.core.weight import Weight

_INFINITE = float("inf")


def lead(load: Floats, requests: Floats, cached: Cached, price: float, weight: Weight) -> tuple[int, float, float]:
    """Return the slot of least load plus weighted `price` for each token not cached, its cost, a bound for the others.

    `load` is in seconds by slot, `requests` are in flight there. No other slot costs less than the bound. Of equals any
    is returned, and the bound is its cost.
    """
    levels, length = cached.levels, cached.length
    block: Any = cached.block
    floor: float = load.item(load.argmin())
    best, least, bound = -1, _INFINITE, _INFINITE
    for level in range(len(levels) - 1, -2, -1):
        depth, mask = levels[level] if level >= 0 else (0, (1 << len(load)) - 1)
        usable = depth if depth < length else length - 1
        missing = price * (length - usable + usable % block)
        lowest = floor + weight.alone * missing  # what anyone with so little cached costs at least
        if lowest > least:
            return best, least, lowest if lowest < bound else bound
        others = mask & ~(1 << best) if best >= 0 else mask
        if others:
            slot, cost, second = _cheapest(load, requests, others, missing, weight)
            if cost < least:
                bound = min(bound, least, second)
                best, least = slot, cost
            else:
                bound = min(bound, cost)
    return best, least, bound


def _cheapest(load: Floats, requests: Floats, mask: int, missing: float, weight: Weight) -> tuple[int, float, float]:
    """The slot of least cost among these, its cost, and the least cost of the rest of them."""
    if not mask & (mask - 1):
        slot = mask.bit_length() - 1
        return slot, load.item(slot) + weight.on(requests.item(slot)) * missing, _INFINITE
    slots = indices(mask)
    first, least, second = two_least(load[slots] + weight.on(requests[slots]) * missing)
    return int(slots[first]), least, second


def two_least(values: Floats) -> tuple[int, float, float]:
    """Return where the least is, the least, and the least of the rest. Spoils `values`."""
    first = int(values.argmin())
    least, values[first] = values.item(first), _INFINITE
    return first, least, values.item(values.argmin())
