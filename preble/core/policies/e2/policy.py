"""E2 with live inputs: exploit a cached prefix or explore another worker, by seconds (paper section 3.2)."""

from __future__ import annotations

import msgspec
import numpy as np

from preble.core.arrays import Floats
from preble.core.cached import CachedTokens
from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.fleet import Fleet, eviction_seconds, queue_delay, thawed
from preble.core.policies.e2.future_delay import NO_DELAY, Arrivals, FutureDelay
from preble.core.policies.e2.prefill_weight import PrefillWeight
from preble.core.policies.e2.price import cheapest
from preble.core.policies.e2.replication import LEAST, AvoidableSeconds
from preble.core.policy import Decision, Query, Terms
from preble.core.request import Request
from preble.errors import names_checked
from preble.tree import RadixTree

_LEARNING_RATE = 1 / 32
_GROUP = 8
"""Workers beyond so many count as further groups, each of which may have one that is free."""


class E2:
    """Takes the worker of least cost, in seconds: `L + w * P + M + D` (the paper's LoadCost, from live state).

    * L is the work that the worker has to finish first: the prefill of its requests, and half of what their decodes add
      to the steps there. Where its queue lets shorter requests go first, each waiting request counts at most P
      (`preble.core.fleet.queue_delay`).
    * P is the prefill of the prompt's uncached tokens.
    * w says how many times a second of prefill counts, since computing takes capacity from others:
      `weight + busy * u ** max(1, N / 8) + delay * q`, and on a worker with r > 0 requests `busy + beside * r` more. u
      is the share of the N workers that were busy lately, q the requests in flight per worker.
    * M is what evictions will cost later: the tokens beyond the free cache, at the price of computing them again, times
      the share of tokens that is reused there.
    * D is how much longer the requests to come will wait if a long prefill takes one of the few lightly loaded workers
      (`future_delay.py`). It is 0 if all queues let shorter requests go first.

    Prefixes in flight count as held, since they are computed before any later request. A worker that holds a popular
    prefix is relieved by the same rule: once its L exceeds the cost of computing the prefix elsewhere, another worker
    gets it too. If no single request should pay for that, a copy is made in the background (`replication.py`).

    Each part can be switched off: `decode` is the decodes in L, `eviction` is M, `future_delay` is D, `in_flight`
    counts prefixes in flight as held, `relieves` lets waiting requests be moved, `replicates` makes copies.
    """

    @names_checked
    def __init__(
        self,
        *,
        weight: float = 1.0,
        busy: float = 1.0,
        beside: float = 0.07,
        delay: float = 0.1,
        decode: bool = True,
        eviction: bool = True,
        future_delay: bool = True,
        in_flight: bool = True,
        relieves: bool = True,
        replicates: bool = True,
    ) -> None:
        """`weight` is w on an idle worker of an idle fleet; `busy`, `beside` and `delay` say how it grows with load."""
        self.weight = weight
        self.busy = busy
        self.beside = beside
        self.delay = delay
        self.decode = decode
        self.eviction = eviction
        self.future_delay = future_delay
        self.in_flight = in_flight
        self.relieves = relieves
        self.replicates = replicates
        self._utilization = 0.0
        self._arrivals = Arrivals()
        self._avoidable = AvoidableSeconds()

    def attached(self, fleet: Fleet) -> None:
        """Remember the whole fleet: copies are for all of it."""
        self._fleet = fleet

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the slot of least cost."""
        fleet.require_live()
        self._utilization += _LEARNING_RATE * (fleet.utilization - self._utilization)
        cached = query.believed if self.in_flight else _computed(query, fleet)
        tokens = query.length + query.max_tokens if self.eviction else -np.inf
        load, weight = fleet.load if self.decode else fleet.pending, self._weight_of(fleet)
        future_delay = self._expected(fleet, now)
        slot, held, lightest, there = cheapest(fleet, load, cached, weight, tokens, future_delay)
        if self.replicates and held - there >= LEAST and not query.namespace:
            delay = self._queue_delay(query, slot, held, load, fleet)
            avoidable = delay - self._queue_delay(query, lightest, there, load, fleet)
            self._count_avoidable(query, avoidable, held - there, lightest, weight, fleet, now)
        price = fleet.token_seconds(query.length)
        terms = _Frozen(fleet.frozen(), fleet.live, self.decode, cached, price, weight, tokens, future_delay)
        return Decision(slot, "exploit" if 2 * held > query.length else "explore", terms)

    def placed(self, request: Request, now: float) -> None:
        """Learn how often requests come, and what they bring; copies are not asked for."""
        if request.priority < COPY_PRIORITY:
            self._arrivals.came(request.prefill + request.decode, now)

    def copies(self, tree: RadixTree, now: float) -> list[Copy]:
        """The prefixes to copy now, and where to."""
        return self._avoidable.copies(tree, self._fleet, self._weight_of(self._fleet), now)

    def _weight_of(self, fleet: Fleet) -> PrefillWeight:
        """How many times P counts now, by a worker's requests."""
        groups = max(1.0, len(fleet.live) / _GROUP)  # later requests miss capacity where all of them are busy
        base = self.weight + self.busy * self._utilization**groups + self.delay * fleet.requests_per_worker
        return PrefillWeight(base, self.busy, self.beside)

    def _expected(self, fleet: Fleet, now: float) -> FutureDelay:
        """Those who will come to this part of the fleet; where short ones go first they need not wait for long ones."""
        if not self.future_delay or fleet.short_first:
            return NO_DELAY
        return self._arrivals.future_delay(len(fleet.live), len(fleet.present), now)

    def _queue_delay(self, query: Query, slot: int, held: int, load: Floats, fleet: Fleet) -> float:
        """The L of a slot that holds so many of its tokens."""
        prefill = fleet.slots[slot].work_seconds(query.length - held, query.length)
        return load.item(slot) - fleet.overtaken(slot, prefill)

    def _count_avoidable(
        self,
        query: Query,
        avoidable: float,
        uncached: int,
        lightest: int,
        weight: PrefillWeight,
        fleet: Fleet,
        now: float,
    ) -> None:
        """Count the seconds that this request could have avoided, had the least loaded worker held its prefix too."""
        if avoidable > 0:
            seconds = fleet.slots[lightest].work_seconds(uncached, query.length)
            copy_seconds = weight.on(fleet.requests.item(lightest)) * seconds
            self._avoidable.add(query.match.node, query.match.tokens, avoidable, copy_seconds, now)


class _Frozen(msgspec.Struct, frozen=True, gc=False):
    """What a decision was made from; called, L, P, M and D as they were."""

    fleet: bytes
    live: list[int]
    decode: bool
    cached: CachedTokens
    price: Floats | float
    weight: PrefillWeight
    tokens: float
    future_delay: FutureDelay

    def __call__(self) -> Terms:
        load, pending, free, per_token, requests, waiting, overtakable = thawed(self.fleet)
        load, held = load if self.decode else pending, self.cached.by_slot()
        eviction = None if self.tokens < 0 else eviction_seconds(held, free, per_token, self.tokens)
        prefill = self.price * (self.cached.length - held)
        taking = np.full_like(load, np.inf)
        taking[self.live] = load[self.live]
        future_delay = self.future_delay.seconds(taking, prefill)
        load = queue_delay(load, waiting, overtakable, prefill)
        return Terms(load, prefill, eviction, held, self.weight.on(requests), future_delay)


def _computed(query: Query, fleet: Fleet) -> CachedTokens:
    """What each slot has computed of the prompt: `query.believed` without what is in flight."""
    levels = sorted((query.match.computed_length(slot), 1 << slot) for slot in fleet.live)
    return fleet.cached(levels, query.length)
