"""E2 with live inputs: exploit a cached prefix or explore another worker, by seconds (paper section 3.2)."""

from __future__ import annotations

from functools import partial

import numpy as np

from preble.core.fleet import Fleet, Floats, eviction_seconds
from preble.core.policy import Decision, Query, Terms

_CLEAR = 1 + 1e-6
"""Times the least cost: who is dearer than this is no tie of it, however it was rounded."""


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
        length = query.length
        tokens = length + query.max_tokens if self.eviction else -np.inf
        price = fleet.token_seconds(length)
        cost = (fleet.load if self.decode else fleet.pending) + (self.weight * price) * (length - cached)
        slot, second = fleet.lead(cost)
        # M is never negative: who leads with its own M against all the others without theirs leads anyway.
        if second <= (cost.item(slot) + fleet.eviction_seconds_on(slot, cached.item(slot), tokens)) * _CLEAR:
            slot = fleet.cheapest(cost + fleet.eviction_seconds(cached, tokens), cached)
        terms = partial(self._terms, fleet.priced.copy(), price, cached, length, tokens)
        return Decision(slot, "exploit" if 2 * cached.item(slot) > length else "explore", terms)

    def _terms(self, priced: Floats, price: Floats | float, cached: Floats, length: int, tokens: float) -> Terms:
        """L, P and M as they were when the fleet's arrays were `priced`."""
        load, pending, free, victim = priced
        return Terms(
            load if self.decode else pending,
            price * (length - cached),
            eviction_seconds(cached, free, victim, tokens) if self.eviction else None,
        )


def _landed(query: Query, fleet: Fleet) -> Floats:
    """What each slot has computed of the prompt: `query.cached` without what is in flight."""
    landed = np.zeros(len(fleet))
    for slot in fleet.live:
        tokens = query.match.landed_length(slot)
        landed[slot] = tokens - tokens % fleet.slots[slot].block_size
    return np.minimum(query.cached, landed)
