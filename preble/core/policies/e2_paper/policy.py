"""E2 as published (paper section 3.2, algorithms 1 and 2): the past three minutes decide."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from typing import NamedTuple

import numpy as np

from preble.core.arrays import Floats, Slots, indices
from preble.core.fleet import Fleet
from preble.core.policies.e2_paper.window import Assignment, Trend, Trends, Window
from preble.core.policy import Decision, Query, Terms
from preble.core.request import Request
from preble.errors import names_checked
from preble.tokens import TOKEN_BYTES
from preble.tree import Match, RadixTree

_FORGOTTEN_AT_ONCE = 32
"""Requests that left H whose pins are undone in one call: more than come in, so what left at once is soon gone."""

_PREFIXES = 0  # a holder in the tree: it pins the nodes where key portions of requests in the window end


class _Prefix:
    """A key portion that requests in the window share: how long they queued, and the `replicas` (a mask) it got."""

    __slots__ = ("replicas", "requests", "trend")

    def __init__(self) -> None:
        self.requests = 0
        self.replicas = 0
        self.trend = Trend()


class _InFlight(NamedTuple):
    """A request in flight: its slot, its node in the tree, its key portion, the prefill seconds it was charged."""

    slot: int
    node: int
    prefix: _Prefix
    prefill: float


class _Terms:
    """LoadCost of one request by slot, in seconds; `eviction` is filled in where it matters. Only `live` slots win."""

    __slots__ = ("decode", "eviction", "live", "load", "prefill")

    def __init__(self, decode: Floats, load: Floats, prefill: Floats, live: Slots) -> None:
        self.decode = decode
        self.load = load
        self.prefill = prefill
        self.eviction: Floats = np.zeros(len(load))
        self.live = live


class E2Paper:
    """Exploit the longest cached prefix or explore the lightest worker, by `L + M + P` over a window H.

    * Fewer uncached than matched tokens: *exploit*, among the workers that hold the longest match take the one of least
      LoadCost. (Algorithm 1 takes the matched node with the most tokens instead; this is the text's rule.)
    * Otherwise *explore*: the worker with the highest decode ratio if that exceeds `imbalance`, else of least LoadCost.
    * L is the prefill of the uncached tokens of what was assigned in H, and its decode at the slot's average output; a
      token of output costs what it adds to a step. P is the prefill of what this prompt misses. M is what evicting
      for it costs: over the nodes that LRU order gives up, the time to recompute them x their share of requests in H.
    * Load shift: while the heaviest L exceeds `threshold` x the lightest, what would exploit the heaviest worker goes
      to the lightest.
    * Autoscaling: when the average queueing time of a key portion doubles from one half of H to the other, it gets a
      replica on the worker of least LoadCost. From then on its exploiters choose among all its homes by LoadCost,
      which splits its subtree by load; the first to choose the new one computes it.

    State: an own tree, in which slot s is two holders: s as cache, told of every change there, and s as the window,
    pinned by each request in H. So a node's pins are its requests in H, and a node nobody caches and none shares goes
    by itself. A decision is O(path), with a few operations on arrays; M is walked only where it can decide. What leaves
    H leaves the sums at once. Its pins go some at a time, when M is walked or a prefill is done or a request ends, so
    that no other decision waits for it: until then the shares of M are those of the requests that are still pinned.
    """

    @names_checked
    def __init__(
        self,
        *,
        window: float = 180.0,
        balance: bool = True,
        imbalance: float = 0.8,
        eviction: bool = True,
        load_shift: bool = True,
        threshold: float = 1.5,
        settle: int = 0,
        autoscale: bool = True,
        samples: int = 10,
    ) -> None:
        """`window` is H in seconds. `balance`, `eviction`, `load_shift` and `autoscale` switch techniques off.

        `imbalance` (ImbalR) is the share of decode in a worker's load above which it is sent what explores, `threshold`
        is Th_bal. The trend of a prefix needs `samples` requests in each half of H; loads shift once `settle` requests
        per worker have been seen (50 in the authors' code, nothing of it in the paper). The paper gives neither ImbalR
        nor `samples`: an ImbalR of 0.5 doubled latency near saturation in simulation, since what explores piles up.
        """
        self.balance = balance
        self.imbalance = imbalance
        self.eviction = eviction
        self.load_shift = load_shift
        self.threshold = threshold
        self.settle = settle
        self.autoscale = autoscale
        self.samples = samples
        self.tree = RadixTree()
        self.prefixes: dict[int, _Prefix] = {}
        self._window = Window(window)
        self._waits = Trends(window)
        self._past: deque[Assignment] = deque()
        self._pinned: Counter[int] = Counter()
        self._in_flight: dict[object, _InFlight] = {}
        self._seen = 0
        self._match: Match | None = None
        self._fleet: Fleet

    def attached(self, fleet: Fleet) -> None:
        """Learn which fleet the later calls are about."""
        self._fleet = fleet

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return where E2 sends it. Raises NoWorkersError."""
        fleet.require_live()
        self._expire(now)
        decode = self._window.decode()
        load = self._window.prefill + decode
        prefill = fleet.prefill_seconds(query.cached, query.length)
        terms = _Terms(decode, load, prefill, indices(fleet.live_mask))
        matched, holders = _longest(query, fleet, terms.live)
        if query.length - matched < matched:
            slot, reason = self._exploit(query, fleet, terms, holders)
        else:
            slot, reason = self._explore(query, fleet, terms)
        return Decision(slot, reason, partial(Terms, terms.load, terms.prefill, terms.eviction))

    def placed(self, request: Request, now: float) -> None:
        """Count the request in the window, and its prompt as cached there soon."""
        slot, tree = request.slot, self.tree
        node = tree.insert(request.tokens, _cache(slot), match=self._match)
        key = self._key(node)
        tree.pin(node, _shares(slot))
        prefix = self.prefixes.get(key)
        if prefix is None:
            tree.pin(key, _PREFIXES)
            prefix = self.prefixes[key] = _Prefix()
        prefix.requests += 1
        worker = self._fleet.slots[slot]
        prefill = worker.prefill_seconds(request.uncached, request.length)
        step = worker.prices.new + worker.prices.context * request.length
        self._window.assign(Assignment(slot, node, key, prefill, step), now)
        self._pinned[slot] += 1
        self._in_flight[request.id] = _InFlight(slot, node, prefix, prefill)
        self._seen += 1

    def computed(self, request: Request, now: float) -> None:
        """Its prompt is cached; what it waited beyond its own prefill is its prefix's queueing time."""
        placed = self._in_flight[request.id]
        self.tree.mark_computed(placed.node, _cache(placed.slot))
        self._forget_past(now)
        self._waits.add(placed.prefix.trend, max(0.0, now - request.submitted_at - placed.prefill), now)

    def finished(self, request: Request, output: bytes, now: float) -> None:
        """Its output is cached too, and tells how long outputs are."""
        slot, node, *_ = self._in_flight.pop(request.id)
        if output:
            self._window.ended(slot, len(output) // TOKEN_BYTES, now)
            self.tree.extend(node, output[:-TOKEN_BYTES], _cache(slot))
        self.tree.unpin(node, _cache(slot))
        self._forget_past(now)

    def evicted(self, slot: int, tokens: bytes, keep: int, now: float) -> None:
        """Forget what is cached no more."""
        if tokens:
            self.tree.truncate(tokens, keep, _cache(slot), worker_block_size=self._fleet.slots[slot].block_size)
        else:
            self.tree.clear(_cache(slot))

    def worker_added(self, slot: int, now: float) -> None:
        """Have sums for the slot."""
        self._window.grow(slot + 1)

    def worker_removed(self, slot: int, now: float) -> None:
        """Forget all that was cached or assigned there."""
        for gone in [*self._window.drop(slot), *(gone for gone in self._past if gone.slot == slot)]:
            self._forget(gone)
        self._past = deque(gone for gone in self._past if gone.slot != slot)
        self.tree.remove_worker(_cache(slot))
        for prefix in self.prefixes.values():
            prefix.replicas &= ~(1 << slot)

    def _exploit(self, query: Query, fleet: Fleet, terms: _Terms, holders: Slots) -> tuple[int, str]:
        reason = "exploit"
        if self.autoscale and (homes := self._homes(query, fleet, terms)) is not None:
            holders, reason = homes, "exploit replicated"
        slot = self._cheapest(holders, query, fleet, terms)
        light = self._shift(slot, terms) if self.load_shift else slot
        return (slot, reason) if light == slot else (light, "load shift")

    def _explore(self, query: Query, fleet: Fleet, terms: _Terms) -> tuple[int, str]:
        if self.balance:
            load, decode = terms.load[terms.live], terms.decode[terms.live]
            ratio = np.divide(decode, load, out=np.zeros(len(load)), where=load > 0)
            if ratio.max() > self.imbalance:
                return int(terms.live[ratio.argmax()]), "explore decode-heavy"
        return self._cheapest(terms.live, query, fleet, terms), "explore"

    def _shift(self, slot: int, terms: _Terms) -> int:
        """Where to go instead of `slot`, if that is the heaviest and too heavy."""
        load = terms.load[terms.live]
        heavy, light = load.argmax(), load.argmin()
        settled = self._seen >= self.settle * len(load)
        shifts = settled and slot == terms.live[heavy] and load[heavy] > self.threshold * load[light]
        return int(terms.live[light]) if shifts else slot

    def _cheapest(self, slots: Slots, query: Query, fleet: Fleet, terms: _Terms) -> int:
        """The slot of least LoadCost. M is at least 0, so slots whose L + P exceeds the best cost need none."""
        cost: Floats = np.full(len(terms.load), np.inf)
        cost[slots] = terms.load[slots] + terms.prefill[slots]
        needed = query.length - query.cached - fleet.free
        if self.eviction and (needed[slots] > 0).any():
            self._unpin_past()
            best = np.inf
            for slot in slots[cost[slots].argsort()].tolist():
                if cost[slot] > best:
                    break
                terms.eviction[slot] = self._eviction(slot, int(needed[slot]), best - cost[slot], fleet)
                cost[slot] += terms.eviction[slot]
                best = min(best, cost[slot])
        return fleet.cheapest(cost, query.cached)

    def _eviction(self, slot: int, tokens: int, most: float, fleet: Fleet) -> float:
        """M: what it costs to evict `tokens` tokens there; counted no further than beyond `most` seconds."""
        requests = self._pinned[slot]
        seconds = 0.0
        if not requests:
            return seconds
        for node, gone in self.tree.victims(_cache(slot), tokens):
            sharing = self.tree.pins_below(node, _shares(slot))
            if sharing:
                seconds += fleet.slots[slot].prefill_seconds(gone, self.tree.depth(node)) * sharing / requests
                if seconds > most:
                    break
        return float(seconds)

    def _homes(self, query: Query, fleet: Fleet, terms: _Terms) -> Slots | None:
        """The slots that may serve the prompt's key portion, if it is replicated, now or before; else None."""
        match = self._match = self.tree.match(query.match.prompt)
        whole = self.tree.depth(match.node) == match.tokens
        key = self._key(match.node if whole else self.tree.parent(match.node))
        prefix = self.prefixes.get(key)
        if prefix is None:
            return None
        depth = self.tree.depth(key)
        held = next((mask for level, mask in query.match.levels if level >= depth), 0)
        if prefix.trend.doubled(self.samples):
            self._replicate(prefix, held, query, fleet, terms)
        homes = _among(held | prefix.replicas, fleet, terms.live)
        return homes if prefix.replicas and len(homes) else None

    def _replicate(self, prefix: _Prefix, held: int, query: Query, fleet: Fleet, terms: _Terms) -> None:
        """Give the prefix a home more, where LoadCost is least; its trend begins anew."""
        prefix.trend = Trend()
        others = np.setdiff1d(terms.live, indices(held | prefix.replicas))
        if len(others):
            prefix.replicas |= 1 << self._cheapest(others, query, fleet, terms)

    def _key(self, node: int) -> int:
        """The key portion of a path: its deepest node with more tokens than all above it together."""
        depth, parent = self.tree.depth, self.tree.parent
        while node and depth(node) <= 2 * depth(parent(node)):
            node = parent(node)
        return node

    def _expire(self, now: float) -> None:
        self._waits.expire(now)
        self._past.extend(self._window.expire(now))

    def _forget_past(self, now: float) -> None:
        self._expire(now)
        self._unpin_past()

    def _unpin_past(self) -> None:
        for _ in range(min(_FORGOTTEN_AT_ONCE, len(self._past))):
            self._forget(self._past.popleft())

    def _forget(self, gone: Assignment) -> None:
        self._pinned[gone.slot] -= 1
        self.tree.unpin(gone.node, _shares(gone.slot))
        prefix = self.prefixes[gone.key]
        prefix.requests -= 1
        if not prefix.requests:
            del self.prefixes[gone.key]
            self.tree.unpin(gone.key, _PREFIXES)

    def check(self) -> None:
        """Raise AssertionError unless tree, window and requests in flight agree."""
        self.tree.check()
        self._window.check()
        self._waits.check()
        window = [*self._past, *(assignment for _, assignment in self._window.assignments)]
        keys = Counter(assignment.key for assignment in window)
        assert self.tree.pins(_PREFIXES) == dict.fromkeys(keys, 1), "key portions pinned are not those in the window"
        assert {key: prefix.requests for key, prefix in self.prefixes.items()} == keys, "prefixes"
        for slot in range(len(self._window.requests)):
            shares = Counter(assignment.node for assignment in window if assignment.slot == slot)
            assert self.tree.pins(_shares(slot)) == shares, f"slot {slot}: pins are not those of the window"
            assert self._pinned[slot] == shares.total(), f"slot {slot}: requests pinned"
            ends = Counter(placed.node for placed in self._in_flight.values() if placed.slot == slot)
            assert self.tree.pins(_cache(slot)) == ends, f"slot {slot}: pins are not those of the requests in flight"


def _cache(slot: int) -> int:
    """The holder of the tree that stands for the cache of a slot."""
    return 2 * slot + 1


def _shares(slot: int) -> int:
    """The holder of the tree that stands for the requests assigned to a slot in the window."""
    return 2 * slot + 2


def _among(mask: int, fleet: Fleet, live: Slots) -> Slots:
    slots = indices(mask)
    return slots if len(live) == len(fleet) else np.intersect1d(slots, live)


def _longest(query: Query, fleet: Fleet, live: Slots) -> tuple[int, Slots]:
    """The longest match that a live slot holds, in tokens, and the live slots that hold it."""
    for depth, mask in reversed(query.match.levels):
        holders = _among(mask, fleet, live)
        if len(holders):
            return depth, holders
    return 0, live
