"""The workers as policies see them: arrays with one entry per slot, so that a few operations price all workers."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np

from preble.core.arrays import Floats
from preble.core.cached import CachedTokens
from preble.core.cost import Coefficients, CostModel, StepTiming
from preble.core.fit import Fit
from preble.core.slot import Slot
from preble.errors import ConfigurationError, ContextLengthError, NamespaceNotServedError, NoWorkersError

_LEARNING_RATE = 0.05
_ROWS = (
    "load", "pending", "free", "eviction_seconds_per_token", "requests", "waiting", "overtakable",
    "uncached", "block_size", "new", "product",
)  # fmt: skip
_PRICED = 7  # the first rows are what policies price by
_CONSTANT = 3  # the last rows do not change with every request
_NO_WORKER = Coefficients(least=np.inf, base=0.0, new=0.0, context=0.0, product=0.0)


class _Part(NamedTuple):
    """The part of the fleet that takes requests of a namespace; `paused` if one that serves it takes none for now.

    `surcharge` has for its slots what their recent failures cost, in seconds, and infinity for all others.
    """

    live: list[int]
    names: tuple[str | None, ...]
    surcharge: Floats
    short_first: bool
    paused: bool


class Fleet:
    """The workers by slot. A slot is a small int that a worker keeps from `add` to `remove`; then it is used again.

    Arrays with one entry per slot (counts are floats too, since converting them takes as long as adding):

    * `load`: outstanding seconds, of prefills and decodes; `pending`: those of prefills. Both are infinite where no
      worker accepts requests, so that such a slot is never the cheapest.
    * `free`: tokens of the cache that are not believed held.
    * `requests`: requests in flight; `waiting`: those that have not started; `uncached`: the prompt tokens of all of
      them that are still to be computed.
    * `overtakable`: seconds of prefill of the waiting requests that shorter ones may overtake.
    * `eviction_seconds_per_token`: what evicting one token will cost later.

    `table` has these arrays as its rows, and below them the block sizes and prices of the slots.

    `names` has the workers by slot, None for an empty slot; it is replaced and never changed, so that it may be kept.
    `present` lists the slots with a worker. `live` lists those that accept requests, which drained workers do not;
    `live_mask` has a bit for each of them. `short_first` is true if all their wait queues let shorter requests go
    first. `restricted` is true if some workers serve certain namespaces only, are paused, or have a penalty; policies
    get the part of the fleet that is `serving` the request. `shortest_context` is the least context limit, in tokens.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  ties only
        self.slots: list[Slot] = []
        self.names: tuple[str | None, ...] = ()
        self.slot_of: dict[str, int] = {}
        self.present: list[int] = []
        self.live: list[int] = []
        self.in_flight = 0
        self.occupied = 0
        self._surcharge: Floats | None = None
        self._lay_out(np.zeros((len(_ROWS), 0)))
        self._changed()

    def __len__(self) -> int:
        return len(self.slots)

    def add(
        self,
        worker: str,
        *,
        kv_tokens: int,
        block_size: int,
        cost: CostModel,
        max_batched_tokens: int | None = None,
        short_first: bool = False,
        namespaces: frozenset[str] | None = None,
        context_limit: int | None = None,
    ) -> int:
        """Give `worker` a slot, for `namespaces` only unless that is None.

        Raises ConfigurationError if it has one, or for sizes below 1.
        """
        if worker in self.slot_of:
            raise ConfigurationError(f"worker: {worker!r} is here already")
        sizes = {
            "kv_tokens": kv_tokens,
            "block_size": block_size,
            "max_batched_tokens": max_batched_tokens,
            "context_limit": context_limit,
        }
        for name, tokens in sizes.items():
            if tokens is not None and tokens < 1:
                raise ConfigurationError(f"{name}: must be at least 1, not {tokens}")
        slot = self._empty_slot()
        newcomer = self.slots[slot] = Slot(worker, kv_tokens, block_size, cost.coefficients())
        newcomer.max_batched_tokens = max_batched_tokens
        newcomer.short_first = short_first
        newcomer.namespaces = namespaces
        newcomer.context_limit = np.inf if context_limit is None else context_limit
        alike = self._alike(newcomer.fit)
        for other in alike:
            newcomer.fit.follow(other.fit)
        newcomer.price_by(max(alike, key=_seen).leader)
        self.slot_of[worker] = slot
        self._table[:, slot] = 0.0
        self.free[slot] = kv_tokens
        self._changed()
        return slot

    def drain(self, worker: str) -> int:
        """Let a worker finish its requests and accept no more; return its slot. Draining it again changes nothing."""
        slot = self.slot(worker)
        self.slots[slot].accepts_requests = False
        self.load[slot] = self.pending[slot] = np.inf
        self._changed()
        return slot

    def adjust(self, worker: str, *, paused: bool, penalty: float) -> None:
        """Pause a worker or let it go on, and add `penalty` seconds to its load for whoever chooses."""
        slot = self.slots[self.slot(worker)]
        slot.paused, slot.penalty = paused, penalty
        self._changed()

    def remove(self, worker: str) -> int:
        """Forget a worker and return the slot that it had. Raises ConfigurationError if it has none."""
        slot = self.slot(worker)
        del self.slot_of[worker]
        self.slots[slot] = Slot(None, 0, 1, _NO_WORKER)
        self._table[:, slot] = 0.0
        self.load[slot] = self.pending[slot] = np.inf
        self._changed()
        return slot

    def slot(self, worker: str) -> int:
        """The slot of a worker. Raises ConfigurationError if it has none."""
        try:
            return self.slot_of[worker]
        except KeyError:
            raise ConfigurationError(f"worker: {worker!r} is not here") from None

    def require_live(self) -> list[int]:
        """Return the slots whose workers accept requests, ascending. Raises NoWorkersError if there are none."""
        if not self.live:
            raise NoWorkersError("no worker can take requests")
        return self.live

    def serving(self, namespace: str, length: int = 0, output: int = 0, excluded: Collection[str] = ()) -> Fleet:
        """Return the fleet as a request of `namespace` sees it: no other worker accepts any. Changes nothing.

        These are workers that serve the namespace, are not paused or `excluded` by name, and whose context has room for
        `length` tokens of prompt and `output` tokens more, or else, if it is long enough for the prompt, the longest
        context there is. If all do, that is the fleet itself. Raises NamespaceNotServedError if no worker that accepts
        requests serves the namespace, ContextLengthError if no worker has a context for the prompt, and NoWorkersError
        if one will do that takes no requests now.
        """
        needed = length + max(output, 1)
        beyond = needed > self.shortest_context
        if not (self.restricted or beyond or excluded):
            return self
        part = self._parts.get(namespace, self._others)
        if self.live and not part.live and not part.paused:
            raise NamespaceNotServedError(f"no worker serves namespace {namespace!r}", namespace=namespace)
        if beyond or excluded:
            part = self._narrowed(part, length, needed, excluded)
        if not part.live:
            raise NoWorkersError("no worker can take this request now")
        view = Fleet.__new__(Fleet)  # the same arrays but for these; `copy` takes several times as long
        load, pending = self.load + part.surcharge, self.pending + part.surcharge
        vars(view).update(
            vars(self), live=part.live, live_mask=_mask(part.live), names=part.names, load=load, pending=pending
        )
        view.short_first, view._surcharge = part.short_first, part.surcharge
        return view

    def surcharge(self, namespace: str) -> Floats | float:
        """Return by slot what to add to a cost: seconds of penalty, infinity where `namespace` is not served now."""
        return self._parts.get(namespace, self._others).surcharge if self.restricted else 0.0

    def cached(self, levels: Sequence[tuple[int, int]], length: int) -> CachedTokens:
        """Return the cached tokens by slot of a prompt of `length` tokens; `levels` are those of its match."""
        return CachedTokens(levels, length, self._block_size, len(self.slots))

    def prefill_seconds(self, cached: Floats, length: int) -> Floats:
        """Return by slot the seconds to prefill the uncached tokens of a prompt of `length` tokens."""
        slope = self._new + self._product * length
        uncached = self._base + (self._context + slope) * length
        seconds: Floats = np.maximum(uncached - slope * cached, self._least)
        return seconds

    def work_seconds(self, cached: Floats, length: int) -> Floats:
        """Return by slot the seconds that this prefill adds to the steps of the engine, which run anyway."""
        seconds: Floats = self.token_seconds(length) * (length - cached)
        return seconds

    @property
    def requests_per_worker(self) -> float:
        """Requests in flight per worker that accepts requests; 0 without workers."""
        return self.in_flight / len(self.live) if self.live else 0.0

    @property
    def utilization(self) -> float:
        """The share of the workers that have requests in flight, of those that accept requests; at most 1."""
        return min(1.0, self.occupied / len(self.live)) if self.live else 0.0

    def token_seconds(self, length: int) -> Floats | float:
        """Return these seconds per uncached token: one number if the prices of all workers are equal, else by slot."""
        return self._new + self._product * length

    def frozen(self) -> bytes:
        """Return the rows that policies price by, as they are now; `thawed` turns them into arrays again.

        Bytes are quicker to make and to drop than arrays. The load is that of the whole fleet, whoever is `serving`.
        """
        if self._surcharge is None:
            return self._priced_rows.tobytes()
        rows = self._priced_rows.copy()
        rows[0] += np.where(np.isfinite(self._surcharge), self._surcharge, 0.0)
        return rows.tobytes()

    def eviction_seconds(self, cached: Floats, tokens: float) -> Floats:
        """Return by slot the seconds that evicting for `tokens` tokens, less what is `cached`, will cost later."""
        return eviction_seconds(cached, self.free, self.eviction_seconds_per_token, tokens)

    def cheapest(self, cost: Floats, cached: Floats | None = None) -> int:
        """Return the slot of least cost. Ties: most cached tokens, then the emptiest cache, then a seeded draw."""
        best = int(cost.argmin())
        least, cost[best] = cost.item(best), np.inf
        bound, second = least * (1 + 1e-9), cost.item(cost.argmin())
        cost[best] = least
        if second > bound:  # comparing all takes longer, and ties are rare
            return best
        ties: list[int] = (cost <= bound).nonzero()[0].tolist()
        for merit in (cached, self.free):
            if len(ties) > 1 and merit is not None:
                merits = merit.tolist()
                most = max([merits[slot] for slot in ties])
                ties = [slot for slot in ties if merits[slot] == most]
        return ties[0] if len(ties) == 1 else ties[self.random.randrange(len(ties))]

    def enter(self, slot: int, decode: float) -> None:
        """Count a new request, which waits; its decodes will take `decode` seconds."""
        self.in_flight += 1
        self._requests[slot] += 1
        self.occupied += self._requests[slot] == 1
        self._waiting[slot] += 1
        self._load[slot] += decode

    def charge(self, slot: int, uncached: int, prefill: float, *, overtakable: bool) -> None:
        """Add uncached prompt tokens, and their seconds of prefill, to what is outstanding on the slot.

        Negative numbers take them away. `overtakable` says whether the request waits and shorter ones may overtake it.
        """
        self._uncached[slot] += uncached
        self._pending[slot] += prefill
        self._load[slot] += prefill
        if overtakable:
            self._overtakable[slot] += prefill

    def overtaken(self, slot: int, prefill: float) -> float:
        """Return the seconds of waiting prefill that a request of `prefill` seconds overtakes there (`queue_delay`)."""
        return max(0.0, self._overtakable[slot] - self._waiting[slot] * prefill)

    def begin(self, slot: int, overtakable: float) -> None:
        """A waiting request has started: its `overtakable` seconds of prefill can no longer be overtaken."""
        self._waiting[slot] -= 1
        self._overtakable[slot] -= overtakable

    def leave(self, slot: int, decode: float, *, waited: bool) -> None:
        """A request left. Its prefill is not outstanding any more; `waited` says whether it never started."""
        self.in_flight -= 1
        self._load[slot] -= decode
        self._waiting[slot] -= waited
        self._requests[slot] -= 1
        if not self._requests[slot]:
            self.occupied -= 1
            # An idle worker has exactly nothing to do: rounding errors must not add up over days.
            self._load[slot] = self._pending[slot] = self.idle_load(slot)
            self._overtakable[slot] = 0.0

    def idle_load(self, slot: int) -> float:
        """Return the load of a worker without requests: 0, or infinity if it accepts none."""
        return 0.0 if self.slots[slot].accepts_requests else np.inf

    def set_free(self, slot: int, tokens: int) -> None:
        """Set how many tokens of its cache are not believed held."""
        self._free[slot] = tokens

    def saw_steps(self, slot: int, timings: Iterable[StepTiming]) -> None:
        """Learn from the steps of a worker what steps cost there, and on similar workers.

        Similar are those of the same preset that have reported no steps yet or whose steps agree. New requests are
        priced by that; what is charged already stays.
        """
        teacher, leader = self.slots[slot].fit, self.slots[slot].leader
        if teacher.observe(timings) and (leader is teacher or not teacher.agrees(leader)):
            for worker in self._alike(teacher):
                worker.fit.follow(teacher)
            self._share(teacher)
            self._priced()

    def saw_prompt(self, slot: int, cached_share: float) -> None:
        """Learn which share of the prompt tokens sent there was cached."""
        worker = self.slots[slot]
        worker.reuse += _LEARNING_RATE * (cached_share - worker.reuse)
        self._eviction_seconds_per_token[slot] = worker.reuse * worker.prices.new

    def saw_output(self, slot: int, tokens: int) -> None:
        """Learn how long outputs are."""
        worker = self.slots[slot]
        worker.output += _LEARNING_RATE * (tokens - worker.output)

    def _alike(self, fit: Fit) -> list[Slot]:
        """The slots whose prices began as those of `fit`."""
        return [slot for slot in self.slots if slot.fit.preset == fit.preset]

    def _share(self, fit: Fit) -> None:
        """Price each worker of the same preset by the most experienced one whose prices agree with its own steps.

        With prices of its own for each, noise would make one of several equal workers the cheapest for everybody.
        """
        leaders: list[Fit] = []
        for worker in sorted(self._alike(fit), key=_seen, reverse=True):
            leader = next(filter(worker.fit.agrees, leaders), worker.fit)
            worker.price_by(leader)
            if leader is worker.fit:
                leaders.append(leader)
        for index, worker in enumerate(self.slots):
            self.eviction_seconds_per_token[index] = worker.reuse * worker.prices.new

    def _empty_slot(self) -> int:
        if None in self.names:
            return self.names.index(None)
        self.slots.append(Slot(None, 0, 1, _NO_WORKER))
        self._lay_out(np.append(self._table, np.zeros((len(_ROWS), 1)), axis=1))
        return len(self.slots) - 1

    def _lay_out(self, table: Floats) -> None:
        """Name the rows of the table."""
        self._table = table
        self.load, self.pending, self.free, self.eviction_seconds_per_token, *others = table
        self.requests, self.waiting, self.overtakable, self.uncached, *_ = others
        self.table = table.data
        self._priced_rows = table[:_PRICED]
        cells = cast("list[memoryview[float]]", [memoryview(row) for row in table[:-_CONSTANT]])
        self._load, self._pending, self._free, self._eviction_seconds_per_token, *cells = cells
        self._requests, self._waiting, self._overtakable, self._uncached = cells

    def _changed(self) -> None:
        """Derive from the slots what is read for every request."""
        self.names = tuple(slot.worker for slot in self.slots)
        self.present = [index for index, name in enumerate(self.names) if name is not None]
        self.live = [index for index in self.present if self.slots[index].accepts_requests]
        self.live_mask = _mask(self.live)
        self.short_first = self._all_short_first(self.live)
        self.restricted = any(slot.namespaces is not None or slot.paused or slot.penalty for slot in self.slots)
        self.shortest_context = min((slot.context_limit for slot in self.slots if slot.worker), default=np.inf)
        named = {name for slot in self.slots for name in slot.namespaces or ()}
        self._parts = {name: self._part(name) for name in named}
        self._others = self._part(None)
        blocks = [slot.block_size for slot in self.slots]
        self._block_size = blocks[0] if len(set(blocks)) == 1 else np.array(blocks)
        self._priced()

    def _part(self, namespace: str | None) -> _Part:
        return self._part_of([slot.serves(namespace) for slot in self.slots])

    def _part_of(self, serves: Sequence[bool]) -> _Part:
        takes = [serving and not slot.paused for slot, serving in zip(self.slots, serves, strict=True)]
        live = [slot for slot in self.live if takes[slot]]
        return _Part(
            live,
            tuple(name if taking else None for name, taking in zip(self.names, takes, strict=True)),
            np.where(takes, [slot.penalty for slot in self.slots], np.inf),
            self._all_short_first(live),
            any(self.slots[slot].paused for slot in self.live if serves[slot]),
        )

    def _narrowed(self, part: _Part, length: int, needed: int, excluded: Collection[str]) -> _Part:
        """The part without those that are excluded, and those whose context is too short."""
        left = [slot for slot in part.live if self.names[slot] not in excluded]
        longest = max((self.slots[slot].context_limit for slot in left), default=0.0)
        if length >= longest:
            self._require_context(length)
        needed = int(min(needed, longest))
        takes = {slot for slot in left if self.slots[slot].context_limit >= needed > length}
        return self._part_of([slot in takes for slot in range(len(self.slots))])

    def _require_context(self, length: int) -> None:
        """Raise ContextLengthError if there are workers and none has a context for so many tokens of prompt."""
        longest = max((slot.context_limit for slot in self.slots if slot.worker), default=np.inf)
        if length >= longest:
            raise ContextLengthError(f"{length} tokens leave no room for one more in {longest:.0f}", field="tokens")

    def _all_short_first(self, slots: Iterable[int]) -> bool:
        return all(self.slots[slot].short_first for slot in slots)

    def _priced(self) -> None:
        """Derive from the prices of the slots what prices them all at once."""
        prices = [slot.prices for slot in self.slots]
        constant = [(slot.block_size, slot.prices.new, slot.prices.product) for slot in self.slots]
        self._table[-_CONSTANT:] = np.array(constant).reshape(-1, _CONSTANT).T
        self._least = np.array([price.least for price in prices])
        self._base = _shared([price.base for price in prices])
        self._new = _shared([price.new for price in prices])
        self._context = _shared([price.context for price in prices])
        self._product = _shared([price.product for price in prices])


def thawed(frozen: bytes) -> Floats:
    """Return the rows that policies price by, in the order of the table, as they were when frozen."""
    return np.frombuffer(frozen).reshape(_PRICED, -1)


def queue_delay(load: Floats, waiting: Floats, overtakable: Floats, prefill: Floats | float) -> Floats:
    """Return by slot how long a request of `prefill` seconds waits for others there, and longer ones for it.

    `queue_delay = load - max(0, overtakable - waiting * prefill)`, in seconds. Where shorter requests go first, the
    request waits for those that have started and for shorter ones, and longer ones wait for it, for the length of its
    prefill. So each waiting request counts at most `prefill`.
    """
    counted: Floats = load - np.maximum(overtakable - waiting * prefill, 0.0)
    return counted


def eviction_seconds(cached: Floats, free: Floats, seconds_per_token: Floats, tokens: float) -> Floats:
    """Return `max(0, tokens - cached - free) * seconds_per_token`: what evicting to make room will cost, by slot."""
    seconds: Floats = np.maximum(tokens - (cached + free), 0.0) * seconds_per_token
    return seconds


def served_namespaces(names: Iterable[str] | None) -> frozenset[str] | None:
    """Return the namespaces that a worker serves, None for all. Raises ConfigurationError if they are no names."""
    if names is None:
        return None
    served = frozenset() if isinstance(names, str) else frozenset(names)
    if not served or not all(isinstance(name, str) for name in served):
        raise ConfigurationError(f"namespaces: must be names, at least one, or None for all, not {names!r}")
    return served


def _mask(slots: Iterable[int]) -> int:
    """Return an int with the bit of each slot set."""
    return sum(1 << slot for slot in slots)


def _seen(slot: Slot) -> int:
    return slot.fit.seen


def _shared(values: list[float]) -> Floats | float:
    """One number where all are equal, which is the usual case and half the work; else an array."""
    return values[0] if len(set(values)) == 1 else np.array(values)
