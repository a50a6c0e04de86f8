"""E2 with live inputs: exploit a cached prefix or explore another worker, by seconds (paper section 3.2)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from preble.core.cached import Cached, Floats
from preble.core.fleet import Fleet, eviction_seconds
from preble.core.lead import lead, two_least
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
        cached = query.believed if self.in_flight else _landed(query, fleet)
        tokens = query.length + query.max_tokens if self.eviction else -np.inf
        price = fleet.token_seconds(query.length)
        slot = self._ahead(cached, price, tokens, fleet)
        if slot < 0:
            slot = self._cheapest(cached, tokens, fleet)
        load = (fleet.load if self.decode else fleet.pending).tobytes()
        terms = partial(_terms, load, fleet.free.tobytes(), fleet.victim.tobytes(), cached, price, tokens)
        return Decision(slot, "exploit" if 2 * cached.on(slot) > query.length else "explore", terms)

    def _ahead(self, cached: Cached, price: Any, tokens: float, fleet: Fleet) -> int:
        """The slot that `_cheapest` would return, if no other comes near it, else -1.

        M is never negative: who is ahead with it of all the others without it is ahead of them.
        """
        if fleet.alike and self.decode:
            slot, least, others = lead(fleet.load, cached, self.weight * price)
        else:
            load = fleet.load if self.decode else fleet.pending
            slot, least, others = two_least(load + self.weight * price * (cached.length - cached.by_slot()))
        least += fleet.eviction_seconds_on(slot, cached.on(slot), tokens)
        return slot if others > least * _CLEAR else -1

    def _cheapest(self, cached: Cached, tokens: float, fleet: Fleet) -> int:
        """The slot of least cost; what ties, the fleet decides."""
        held = cached.by_slot()
        load = fleet.load if self.decode else fleet.pending
        cost = load + self.weight * fleet.work_seconds(held, cached.length) + fleet.eviction_seconds(held, tokens)
        return fleet.cheapest(cost, held)


def _terms(load: bytes, free: bytes, victim: bytes, cached: Cached, price: Floats | float, tokens: float) -> Terms:
    """L, P and M as they were when these were the fleet's arrays; bytes are quicker to make and to drop than arrays."""
    held = cached.by_slot()
    later = None if tokens < 0 else eviction_seconds(held, np.frombuffer(free), np.frombuffer(victim), tokens)
    return Terms(np.frombuffer(load), price * (cached.length - held), later, held)


def _landed(query: Query, fleet: Fleet) -> Cached:
    """What each slot has computed of the prompt: `query.believed` without what is in flight."""
    levels = sorted((query.match.landed_length(slot), 1 << slot) for slot in fleet.live)
    return fleet.cached(levels, query.length)
