"""E2 with live inputs: exploit a cached prefix or explore another worker, by seconds (paper section 3.2)."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policy import Decision, Query


class E2:
    """Least cost, in seconds: `L + weight * P + M` per worker (the paper's LoadCost, from live state).

    L is the work assigned to the worker and not done: prefill of queued and running requests, and what its decodes
    cost the steps of everyone. P is the prefill of the tokens missed there; its `weight` is above 1 because recomputing
    also takes capacity from all later requests. M is what evicting to make room will cost later: seconds to recompute
    the victims, times how much of what is sent there is reused. Prefixes in flight count as held: they land first.
    """

    def __init__(self, *, weight: float = 2.5, relieves: bool = True) -> None:
        """`weight` multiplies P; `relieves` lets waiting requests be moved when the load has shifted."""
        self.weight = weight
        self.relieves = relieves

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the slot of least cost."""
        fleet.require_live()
        cached = query.cached
        load = fleet.load.copy()
        prefill = fleet.prefill_seconds(cached, query.length)
        eviction = fleet.eviction_seconds(cached, query.length + query.max_tokens)
        slot = fleet.cheapest(load + self.weight * prefill + eviction, cached)
        return Decision(slot, "exploit" if 2 * cached[slot] > query.length else "explore", load, prefill, eviction)
