"""E2 with live inputs: exploit a cached prefix or explore another worker, by seconds (paper section 3.2)."""

from __future__ import annotations

import numpy as np

from preble.core.fleet import Fleet, Floats
from preble.core.policy import Decision, Query


class E2:
    """Least cost, in seconds: `L + weight * P + M` per worker (the paper's LoadCost, from live state).

    L is the work assigned to the worker and not done: what the prefill of queued and running requests, and their
    decodes, add to the steps of everyone. P is that of the tokens missed there; its `weight` is above 1 because
    recomputing also takes capacity from all later requests. M is what evicting to make room will cost later: seconds to
    recompute the victims, times how much of what is sent there is reused. Prefixes in flight count as held, since
    they land first. An overloaded holder is relieved by the same rule: its L exceeds what recomputing costs elsewhere,
    and the copy that this makes is then held by both.

    The parts can be switched off one by one: `decode` is the decodes in L, `eviction` is M, `in_flight` counts prefixes
    in flight as held, `relieves` lets waiting requests be moved when the load has shifted.
    """

    def __init__(
        self,
        *,
        weight: float = 2.5,
        decode: bool = True,
        eviction: bool = True,
        in_flight: bool = True,
        relieves: bool = True,
    ) -> None:
        """`weight` multiplies P."""
        self.weight = weight
        self.decode = decode
        self.eviction = eviction
        self.in_flight = in_flight
        self.relieves = relieves

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the slot of least cost."""
        fleet.require_live()
        cached = query.cached if self.in_flight else _landed(query, fleet)
        load = (fleet.load if self.decode else fleet.pending).copy()
        prefill = fleet.work_seconds(cached, query.length)
        cost = load + self.weight * prefill
        eviction = None
        if self.eviction:
            eviction = fleet.eviction_seconds(cached, query.length + query.max_tokens)
            cost += eviction
        slot = fleet.cheapest(cost, cached)
        reason = "exploit" if 2 * cached[slot] > query.length else "explore"
        return Decision(slot, reason, load, prefill, eviction, cached)


def _landed(query: Query, fleet: Fleet) -> Floats:
    """What each slot has computed of the prompt: `query.cached` without what is in flight."""
    landed = np.zeros(len(fleet))
    for slot in fleet.live:
        tokens = query.match.landed_length(slot)
        landed[slot] = tokens - tokens % fleet.slots[slot].block_size
    return np.minimum(query.cached, landed)
