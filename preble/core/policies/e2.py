"""E2 with live inputs: exploit a cached prefix or explore another worker, by seconds (paper section 3.2)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from preble.core.cached import Cached, Floats
from preble.core.fleet import Fleet, eviction_seconds, thawed
from preble.core.lead import lead, two_least
from preble.core.policy import Decision, Query, Terms
from preble.core.replicate import LEAST, Copy, Rents
from preble.tree import RadixTree

_CLEAR = 1 + 1e-6
"""Times the least cost: who is dearer than this is no tie of it, however it was rounded."""


class E2:
    """Least cost, in seconds: `L + w * P + M` per worker (the paper's LoadCost, from live state).

    L is the work assigned to the worker and not done: what the prefill of queued and running requests, and half of what
    their decodes, add to the steps of everyone. P is that of the tokens missed there; w is above 1 because recomputing
    also takes capacity from all later requests, and it grows by `delay` with every request in flight per worker,
    because those that run beside a prefill wait for it. M is what evicting to make room will cost later: seconds to
    recompute the victims, times how much of what is sent there is reused. Prefixes in flight count as held, since
    they land first. An overloaded holder is relieved by the same rule: its L exceeds what recomputing costs elsewhere,
    and the copy that this makes is then held by both. Where a prefix is in too few places for long, though no single
    request should pay for a copy, one is made in the background (`preble.core.replicate`).

    The parts can be switched off one by one: `decode` is the decodes in L, `eviction` is M, `in_flight` counts prefixes
    in flight as held, `relieves` lets waiting requests be moved when the load has shifted, `replicates` is the copies.
    """

    def __init__(
        self,
        *,
        weight: float = 2.5,
        delay: float = 0.2,
        decode: bool = True,
        eviction: bool = True,
        in_flight: bool = True,
        relieves: bool = True,
        replicates: bool = True,
    ) -> None:
        """P counts `weight` times, and `delay` times more for every request in flight per worker."""
        self.weight = weight
        self.delay = delay
        self.decode = decode
        self.eviction = eviction
        self.in_flight = in_flight
        self.relieves = relieves
        self.replicates = replicates
        self._rents = Rents()

    def attached(self, fleet: Fleet) -> None:
        """Remember the whole fleet: copies are for all of it."""
        self._fleet = fleet

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the slot of least cost."""
        fleet.require_live()
        cached = query.believed if self.in_flight else _landed(query, fleet)
        tokens = query.length + query.max_tokens if self.eviction else -np.inf
        price, weight = fleet.token_seconds(query.length), self._weight(fleet)
        slot = self._ahead(cached, weight * price, tokens, fleet)
        if slot < 0:
            slot = self._cheapest(cached, weight, tokens, fleet)
        if self.replicates and not query.namespace:
            self._pay(query, slot, weight, fleet, now)
        terms = _Frozen(fleet.frozen(), self.decode, cached, price, tokens)
        return Decision(slot, "exploit" if 2 * cached.on(slot) > query.length else "explore", terms)

    def copies(self, tree: RadixTree, now: float) -> list[Copy]:
        """The prefixes to copy now, and where to."""
        return self._rents.due(tree, self._fleet, self._weight(self._fleet), now)

    def _weight(self, fleet: Fleet) -> float:
        return self.weight + self.delay * fleet.crowd

    def _pay(self, query: Query, slot: int, weight: float, fleet: Fleet, now: float) -> None:
        """Count what this request could have avoided, had the least loaded worker held its prefix as well."""
        cached, load = query.believed, fleet.load
        other = int(load.argmin())
        avoidable = load.item(slot) - load.item(other)
        if avoidable <= 0:
            return
        missing = cached.on(slot) - cached.on(other)
        if missing >= LEAST:
            price = weight * fleet.slots[other].work_seconds(missing, query.length)
            self._rents.pay(query.match.node, query.match.tokens, avoidable, price, now)

    def _ahead(self, cached: Cached, weighted: Any, tokens: float, fleet: Fleet) -> int:
        """The slot that `_cheapest` would return, if no other comes near it, else -1.

        M is never negative: who is ahead with it of all the others without it is ahead of them.
        """
        if fleet.alike and self.decode:
            slot, least, others = lead(fleet.load, cached, weighted)
        else:
            load = fleet.load if self.decode else fleet.pending
            slot, least, others = two_least(load + weighted * (cached.length - cached.by_slot()))
        least += fleet.eviction_seconds_on(slot, cached.on(slot), tokens)
        return slot if others > least * _CLEAR else -1

    def _cheapest(self, cached: Cached, weight: float, tokens: float, fleet: Fleet) -> int:
        """The slot of least cost; what ties, the fleet decides."""
        held = cached.by_slot()
        load = fleet.load if self.decode else fleet.pending
        cost = load + weight * fleet.work_seconds(held, cached.length) + fleet.eviction_seconds(held, tokens)
        return fleet.cheapest(cost, held)


class _Frozen(msgspec.Struct, frozen=True, gc=False):
    """What a decision was made from; called, L, P and M as they were."""

    fleet: bytes
    decode: bool
    cached: Cached
    price: Floats | float
    tokens: float

    def __call__(self) -> Terms:
        load, pending, free, victim = thawed(self.fleet)
        held = self.cached.by_slot()
        later = None if self.tokens < 0 else eviction_seconds(held, free, victim, self.tokens)
        return Terms(load if self.decode else pending, self.price * (self.cached.length - held), later, held)


def _landed(query: Query, fleet: Fleet) -> Cached:
    """What each slot has computed of the prompt: `query.believed` without what is in flight."""
    levels = sorted((query.match.landed_length(slot), 1 << slot) for slot in fleet.live)
    return fleet.cached(levels, query.length)
