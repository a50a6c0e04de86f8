"""The workers as policies see them: arrays with an entry per slot, so that pricing all takes a few operations."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np

from preble.core.arrays import Floats
from preble.core.cached import CachedTokens
from preble.core.cost import Coefficients, CostModel, StepTiming
from preble.core.fit import Fit
from preble.core.slot import Slot
from preble.errors import ConfigurationError, NamespaceNotServedError, NoWorkersError

_LEARNING_RATE = 0.05
_ROWS = (
    "load", "pending", "free", "eviction_seconds_per_token", "requests", "waiting", "overtakable",
    "uncached", "block_size", "new", "product",
)  # fmt: skip
_PRICED = 7  # the first rows are what policies price by
_CONSTANT = 3  # the last rows do not change with every request
_NO_WORKER = Coefficients(least=np.inf, base=0.0, new=0.0, context=0.0, product=0.0)


class _Part(NamedTuple):
    """The workers that serve a namespace: as in the fleet, but `closed` is infinity by slot for all others."""

    live: list[int]
    names: tuple[str | None, ...]
    closed: Floats
    short_first: bool


class Fleet:
    """Slots of workers. A worker keeps its slot, a small int, from `add` to `remove`; slots are used again.

    Arrays by slot: `load` and `pending` are outstanding seconds (all work, and its prefill part), infinite where no
    worker takes requests, so that it is never the cheapest; `free` is tokens of cache not believed held; `requests`
    counts those in flight, `uncached` their prompt tokens still to be computed, `waiting` those of them not started;
    `overtakable` is the prefill of those that shorter ones may pass, in seconds; `eviction_seconds_per_token` is
    what evicting one token will cost later, in seconds. Counts are floats too: converting takes as long as adding.
    They are rows of one table, the last of which are the slots' block sizes and prices of a prompt's tokens;
    memoryviews of the rows read and write one number faster. `table` is the whole. `names` is replaced, never changed,
    so that it may be kept. `present` are the slots with a worker, `live` those of them that take requests: all but the
    drained ones (`live_mask` has a bit for each, `short_first` is whether it holds for all their queues). `restricted`
    says that some serve certain namespaces only; a policy is given the part of the fleet that is `serving` its request.
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
    ) -> int:
        """Give `worker` a slot, for `namespaces` only unless that is None.

        Raises ConfigurationError if it has one, or for sizes below 1.
        """
        if worker in self.slot_of:
            raise ConfigurationError(f"worker: {worker!r} is here already")
        sizes = {"kv_tokens": kv_tokens, "block_size": block_size, "max_batched_tokens": max_batched_tokens}
        for name, tokens in sizes.items():
            if tokens is not None and tokens < 1:
                raise ConfigurationError(f"{name}: must be at least 1, not {tokens}")
        slot = self._empty_slot()
        newcomer = self.slots[slot] = Slot(worker, kv_tokens, block_size, cost.coefficients())
        newcomer.max_batched_tokens = max_batched_tokens
        newcomer.short_first = short_first
        newcomer.namespaces = namespaces
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
        """Let a worker finish what it has and take no more; return its slot. Draining it again changes nothing."""
        slot = self.slot(worker)
        self.slots[slot].accepts_requests = False
        self.load[slot] = self.pending[slot] = np.inf
        self._changed()
        return slot

    def remove(self, worker: str) -> int:
        """Take the slot back and return it."""
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
        """The slots with a worker that takes requests, ascending. Raises NoWorkersError if there are none."""
        if not self.live:
            raise NoWorkersError("no worker can take requests")
        return self.live

    def serving(self, namespace: str) -> Fleet:
        """The fleet as requests of `namespace` see it: as if where others are served nobody took any. Changes nothing.

        The fleet itself where all workers serve everything. Raises NamespaceNotServedError if none of those that take
        requests serves it.
        """
        if not self.restricted:
            return self
        part = self._parts.get(namespace, self._others)
        if self.live and not part.live:
            raise NamespaceNotServedError(f"no worker serves namespace {namespace!r}", namespace=namespace)
        view = Fleet.__new__(Fleet)  # the same arrays but for these; `copy` takes several times as long
        load, pending = self.load + part.closed, self.pending + part.closed
        vars(view).update(
            vars(self), live=part.live, live_mask=_mask(part.live), names=part.names, load=load, pending=pending
        )
        view.short_first = part.short_first
        return view

    def closed(self, namespace: str) -> Floats | float:
        """What to add to a cost by slot so that only those that serve `namespace` can be the least: 0 or infinity."""
        return self._parts.get(namespace, self._others).closed if self.restricted else 0.0

    def cached(self, levels: Sequence[tuple[int, int]], length: int) -> CachedTokens:
        """Prompt tokens each slot need not compute, where masks of slots hold so many of them, from the root down."""
        return CachedTokens(levels, length, self._block_size, len(self.slots))

    def prefill_seconds(self, cached: Floats, length: int) -> Floats:
        """Seconds each slot needs to prefill what it has not cached of a prompt of `length` tokens."""
        slope = self._new + self._product * length
        uncached = self._base + (self._context + slope) * length
        seconds: Floats = np.maximum(uncached - slope * cached, self._least)
        return seconds

    def work_seconds(self, cached: Floats, length: int) -> Floats:
        """Seconds that prefilling what is not cached of a prompt adds to the steps of each slot."""
        seconds: Floats = self.token_seconds(length) * (length - cached)
        return seconds

    @property
    def requests_per_worker(self) -> float:
        """Requests in flight for each worker that takes some; 0 without workers."""
        return self.in_flight / len(self.live) if self.live else 0.0

    @property
    def utilization(self) -> float:
        """The share of workers that have requests in flight, of those that take some; at most 1."""
        return min(1.0, self.occupied / len(self.live)) if self.live else 0.0

    def token_seconds(self, length: int) -> Floats | float:
        """The same for each token: one number where the workers' prices are equal, else one for each slot."""
        return self._new + self._product * length

    def frozen(self) -> bytes:
        """The rows that policies price by as they are now, for `thawed`.

        Bytes are quicker to make and to drop than arrays. Workers that are closed to a namespace have their own load.
        """
        return self._priced_rows.tobytes()

    def eviction_seconds(self, cached: Floats, tokens: float) -> Floats:
        """Seconds that making room on each slot for what it has not cached of `tokens` tokens will cost later."""
        return eviction_seconds(cached, self.free, self.eviction_seconds_per_token, tokens)

    def cheapest(self, cost: Floats, cached: Floats | None = None) -> int:
        """The slot of least cost; ties go to most tokens cached, then the emptiest cache, then a seeded draw."""
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
        """A request came that will decode so many seconds; it waits."""
        self.in_flight += 1
        self._requests[slot] += 1
        self.occupied += self._requests[slot] == 1
        self._waiting[slot] += 1
        self._load[slot] += decode

    def charge(self, slot: int, uncached: int, prefill: float, *, overtakable: bool) -> None:
        """Add prompt tokens and the seconds to compute them to what is outstanding there; below 0, take them away.

        They are of a request that waits and is `overtakable`, or not.
        """
        self._uncached[slot] += uncached
        self._pending[slot] += prefill
        self._load[slot] += prefill
        if overtakable:
            self._overtakable[slot] += prefill

    def overtaken(self, slot: int, prefill: float) -> float:
        """The seconds there that a request of that `prefill` passes: what `queue_delay` leaves out, for one slot."""
        return max(0.0, self._overtakable[slot] - self._waiting[slot] * prefill)

    def begin(self, slot: int, overtakable: float) -> None:
        """One that waited has started; nobody passes its `overtakable` seconds any more."""
        self._waiting[slot] -= 1
        self._overtakable[slot] -= overtakable

    def leave(self, slot: int, decode: float, *, waited: bool) -> None:
        """A request ended, whose prefill is not outstanding any more."""
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
        """The load of a worker without requests: infinite if it takes none."""
        return 0.0 if self.slots[slot].accepts_requests else np.inf

    def set_free(self, slot: int, tokens: int) -> None:
        """So many tokens of its cache are not believed held."""
        self._free[slot] = tokens

    def saw_steps(self, slot: int, timings: Iterable[StepTiming]) -> None:
        """Learn what steps cost there, and on those of the same preset that have told nothing yet or agree.

        From now on they are priced by that. What is charged already stays.
        """
        teacher, leader = self.slots[slot].fit, self.slots[slot].leader
        if teacher.observe(timings) and (leader is teacher or not teacher.agrees(leader)):
            for worker in self._alike(teacher):
                worker.fit.follow(teacher)
            self._share(teacher)
            self._priced()

    def saw_prompt(self, slot: int, cached_share: float) -> None:
        """Learn how much of what is sent there is reused."""
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
        """Price each worker of its preset by the one that has seen most of those whose prices hold for its own steps.

        Or noise would make one of several equal workers the cheapest for everybody.
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
        self.restricted = any(slot.namespaces is not None for slot in self.slots)
        named = {name for slot in self.slots for name in slot.namespaces or ()}
        self._parts = {name: self._part(name) for name in named}
        self._others = self._part(None)
        blocks = [slot.block_size for slot in self.slots]
        self._block_size = blocks[0] if len(set(blocks)) == 1 else np.array(blocks)
        self._priced()

    def _part(self, namespace: str | None) -> _Part:
        serves = [slot.serves(namespace) for slot in self.slots]
        live = [slot for slot in self.live if serves[slot]]
        return _Part(
            live,
            tuple(name if serving else None for name, serving in zip(self.names, serves, strict=True)),
            np.where(serves, 0.0, np.inf),
            self._all_short_first(live),
        )

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
    """Seconds by slot that a request of so many seconds of `prefill` waits for others there, and they for it.

    It waits for what has started and for those that are shorter; those that are longer wait for it. So each that waits
    costs at most this one's prefill. Of all of them together counts what they are, or as much for each: the lesser.
    """
    counted: Floats = load - np.maximum(overtakable - waiting * prefill, 0.0)
    return counted


def eviction_seconds(cached: Floats, free: Floats, seconds_per_token: Floats, tokens: float) -> Floats:
    """Seconds that making room for what is not `cached` of `tokens` tokens will cost later, from a fleet's arrays."""
    seconds: Floats = np.maximum(tokens - (cached + free), 0.0) * seconds_per_token
    return seconds


def served_namespaces(names: Iterable[str] | None) -> frozenset[str] | None:
    """Return the namespaces that a worker serves, None for all. Raises ConfigurationError for what is no names."""
    if names is None:
        return None
    served = frozenset() if isinstance(names, str) else frozenset(names)
    if not served or not all(isinstance(name, str) for name in served):
        raise ConfigurationError(f"namespaces: must be names, at least one, or None for all, not {names!r}")
    return served


def _mask(slots: Iterable[int]) -> int:
    """A bit for each of them."""
    return sum(1 << slot for slot in slots)


def _seen(slot: Slot) -> int:
    return slot.fit.seen


def _shared(values: list[float]) -> Floats | float:
    """One number where all are equal, which is the usual case and half the work; else an array."""
    return values[0] if len(set(values)) == 1 else np.array(values)
