"""Who is ahead, and by how much, found without pricing everyone: that settles most decisions.

For workers that differ in load and in what they have cached, not in prices and block size. Who has as much cached as
another is ahead of it by load alone, so only the lightest holders of each level matter. Levels are looked at from the
deepest on, until not even the lightest worker of all could be ahead with so little cached.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preble.core.cached import Cached, Floats, indices


def lead(load: Floats, cached: Cached, price: float) -> tuple[int, float, float]:
    """Return the slot of least load plus `price` for each token not cached, its cost, and a bound for the others.

    No other slot costs less than the bound. Of equals any is returned, and the bound is its cost.
    """
    floor: float = load.item(load.argmin())
    block: Any = cached.block
    best, least, bound = -1, float(np.inf), float(np.inf)
    for depth, mask in (*reversed(cached.levels), (0, (1 << len(load)) - 1)):
        usable = cached.usable(depth)
        missing = price * (cached.length - (usable - usable % block))
        if floor + missing > least:
            return best, least, min(bound, floor + missing)
        others = mask if best < 0 else mask & ~(1 << best)
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
        return slot, load.item(slot), np.inf
    slots = indices(mask)
    loads = load[slots]
    first = loads.argmin()
    least, loads[first] = loads.item(first), np.inf
    return int(slots[first]), least, loads.item(loads.argmin())
