"""Who costs least: `L + w * P + M + D` for every slot, in seconds (the paper's LoadCost, from live state)."""

from __future__ import annotations

from preble.core.arrays import Floats
from preble.core.cached import CachedTokens
from preble.core.fleet import Fleet, queue_delay
from preble.core.policies.e2.future_delay import FutureDelay
from preble.core.policies.e2.prefill_weight import PrefillWeight

try:
    from preble.core.policies.e2 import _price
except ImportError:  # built without a compiler
    _price = None  # type: ignore[assignment]


def cheapest(
    fleet: Fleet, load: Floats, cached: CachedTokens, weight: PrefillWeight, tokens: float, future_delay: FutureDelay
) -> tuple[int, int, int, int]:
    """Return the slot of least cost, the slot of least `load`, and after each how many prompt tokens are cached there.

    `tokens` is what the request needs room for, prompt and output. Among equals the fleet decides.
    """
    if _price is not None:
        found: tuple[int, int, int, int] | None = _price.cheapest(
            load,
            fleet.table,
            cached.levels,
            (
                cached.length,
                weight.base,
                weight.if_busy,
                weight.per_request,
                tokens,
                future_delay.rate,
                future_delay.spread,
            ),
        )
        if found is not None:
            return found
    held = cached.by_slot()
    prefill = fleet.work_seconds(held, cached.length)
    own = queue_delay(load, fleet.waiting, fleet.overtakable, prefill) + weight.on(fleet.requests) * prefill
    slot = fleet.cheapest(own + fleet.eviction_seconds(held, tokens) + future_delay.seconds(load, prefill), held)
    lightest = int(load.argmin())
    return slot, int(held[slot]), lightest, int(held[lightest])
