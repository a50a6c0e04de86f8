"""The global scheduler: pure state, told what happens and when (paper section 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import TypeAlias

import msgspec
import numpy as np

from preble.core.cost import CostModel, cost_model
from preble.core.fleet import Fleet
from preble.core.policies import policy_named
from preble.core.policy import Policy, Query
from preble.core.rebalance import Move, moves
from preble.core.receipt import Receipt, Receipts
from preble.errors import ConfigurationError, InvalidRequestError
from preble.tokens import TOKEN_BYTES, TokenInput, pack
from preble.tree import RadixTree

RequestId: TypeAlias = Hashable

_OVERHANG = 1.25  # of a worker's KV tokens, kept in the tree before its own eviction reports are disbelieved


class Placement(msgspec.Struct, frozen=True):
    """Where a request goes, and what to expect there: cached prompt tokens, seconds to its first token."""

    worker: str
    cached_tokens: int
    reason: str
    predicted_ttft: float


class WorkerState(msgspec.Struct, frozen=True):
    """One worker as the scheduler sees it: outstanding seconds, requests in flight, KV tokens believed held."""

    worker: str
    load: float
    requests: int
    held_tokens: int
    kv_tokens: int


class Snapshot(msgspec.Struct, frozen=True):
    """The state at one moment. `tree_tokens` counts a stored token once, however many workers hold it."""

    workers: tuple[WorkerState, ...]
    requests: int
    tree_nodes: int
    tree_tokens: int


class _Request:
    """A submitted request. `slot` is -1 once its worker was removed."""

    __slots__ = (
        "cached", "decode", "first_token", "id", "length", "max_tokens", "node", "prefill", "priority", "session",
        "slot", "started", "tokens",
    )  # fmt: skip

    def __init__(self, id: RequestId, tokens: bytes, query: Query, slot: int, node: int) -> None:
        self.id = id
        self.tokens = tokens
        self.length = query.length
        self.max_tokens = query.max_tokens
        self.session = query.session
        self.priority = query.priority
        self.slot = slot
        self.node = node
        self.cached = int(query.cached[slot])
        self.prefill = 0.0
        self.decode = 0.0
        self.started = False
        self.first_token = False


class Scheduler:
    """Places requests on workers, and keeps the books: who holds which prefix, who has how much left to do.

    Embeddable without a cluster: it does no I/O and has no clock. Every method takes `now`, seconds on any clock that
    does not go back. Each `submit` is accounted at once and must be matched by exactly one `finish`.

    >>> scheduler = Scheduler()
    >>> scheduler.add_worker("a", kv_tokens=100_000, now=0.0)
    >>> placement = scheduler.submit("r1", [1, 2, 3], now=0.0)
    >>> scheduler.finish("r1", output=[4, 5], now=1.0)
    """

    def __init__(self, policy: str | Policy = "e2", *, seed: int = 0, receipts: int = 1024) -> None:
        """`seed` breaks ties; the last `receipts` decisions can be explained. Raises ConfigurationError."""
        self.policy = policy_named(policy)
        self.tree = RadixTree()
        self.fleet = Fleet(seed)
        self._requests: dict[RequestId, _Request] = {}
        self._receipts = Receipts(receipts)
        self._estimated: set[int] = set()

    @property
    def workers(self) -> list[str]:
        """Names of the workers, in the order of their slots."""
        return [self._worker(slot) for slot in self.fleet.live]

    def add_worker(
        self,
        worker: str,
        *,
        kv_tokens: int,
        block_size: int = 1,
        cost: CostModel | str = "mistral-7b-a6000",
        reports_evictions: bool = False,
        now: float,
    ) -> None:
        """Let `worker` take requests, with an empty cache of `kv_tokens` tokens in blocks of `block_size`.

        If it does not report its evictions to `evicted`, they are estimated: least recently used first.
        Raises ConfigurationError if it is here already, for sizes below 1, or for an unknown cost.
        """
        slot = self.fleet.add(worker, kv_tokens=kv_tokens, block_size=block_size, cost=cost_model(cost))
        if not reports_evictions:
            self._estimated.add(slot)

    def remove_worker(self, worker: str, *, now: float) -> list[RequestId]:
        """Forget a worker and all it held. Returns its requests in order of submission.

        They are on no worker then: submit them again under the same id, or finish them.
        """
        slot = self.fleet.slot(worker)
        orphans = [request for request in self._requests.values() if request.slot == slot]
        for request in orphans:
            self._release(request)
            self.tree.unpin(request.node, slot)
            request.slot = -1
        self.tree.remove_worker(slot)
        self.fleet.remove(worker)
        self._estimated.discard(slot)
        return [request.id for request in orphans]

    def submit(
        self,
        id: RequestId,
        tokens: TokenInput,
        *,
        max_tokens: int = 128,
        session: str | None = None,
        priority: int = 0,
        now: float,
    ) -> Placement:
        """Choose a worker for a prompt and account for it at once.

        Raises InvalidRequestError for an empty prompt, a negative `max_tokens` or an id in flight, NoWorkersError
        without workers, ConfigurationError if the policy chose a slot without a worker. Then nothing has changed.
        """
        packed = pack(tokens)
        known = self._requests.get(id)
        if known is not None and known.slot >= 0:
            raise InvalidRequestError(f"{id!r} is in flight", field="id")
        if not packed:
            raise InvalidRequestError("must not be empty", field="tokens")
        if max_tokens < 0:
            raise InvalidRequestError(f"must be at least 0, not {max_tokens}", field="max_tokens")
        match = self.tree.match(packed)
        length = len(packed) // TOKEN_BYTES
        cached = self.fleet.cached(match.levels, length)
        query = Query(length, max_tokens, session, priority, match, cached)
        decision = self.policy.place(query, self.fleet, now)
        slot = decision.slot
        if not (0 <= slot < len(self.fleet) and self.fleet.names[slot]):
            raise ConfigurationError(f"policy: chose slot {slot}, which has no worker")
        node = self.tree.insert(packed, slot, match=match)
        self._requests.pop(id, None)  # an orphan's old place in the order of submission
        request = self._requests[id] = _Request(id, packed, query, slot, node)
        predicted = self._charge(request)
        self._resize(slot)
        self._receipts.decided(id, decision, query, self.fleet.names, predicted, now)
        return Placement(self._worker(slot), request.cached, decision.reason, predicted)

    def started(self, id: RequestId, *, cached_tokens: int, now: float) -> None:
        """The engine began the prefill and truly found `cached_tokens` in its cache: correct what was believed."""
        request = self._requests[id]
        if request.slot < 0 or request.started:
            return
        request.started = True
        if cached_tokens < request.cached:
            self.tree.truncate(request.tokens, cached_tokens, request.slot)
        if cached_tokens != request.cached and not request.first_token:
            self.fleet.charge(request.slot, prefill=-request.prefill, decode=0.0)
            worker = self.fleet.slots[request.slot]
            request.prefill = worker.prefill_seconds(request.length - cached_tokens, request.length)
            self.fleet.charge(request.slot, prefill=request.prefill, decode=0.0)
        self._resize(request.slot)
        self._receipts.started(id, cached_tokens)

    def first_token(self, id: RequestId, *, now: float) -> None:
        """The prefill landed: the whole prompt is cached there."""
        request = self._requests[id]
        if request.slot < 0 or request.first_token:
            return
        request.first_token = True
        self.tree.land(request.node, request.slot)
        self.fleet.charge(request.slot, prefill=-request.prefill, decode=0.0)
        request.prefill = 0.0
        self._receipts.first_token(id, now)

    def finish(self, id: RequestId, *, output: TokenInput = b"", now: float) -> None:
        """The request ended, however it ended. Generated tokens are cached too, so the next turn hits them.

        A prompt whose prefill did not land is not believed cached. Raises KeyError for an unknown id.
        """
        generated = pack(output, field="output")
        if generated:
            self.first_token(id, now=now)
        request = self._requests.pop(id)
        if request.slot < 0:
            return
        if generated:
            self._keep(request, generated)
        self.tree.unpin(request.node, request.slot)
        self._release(request)
        self._resize(request.slot)

    def evicted(self, worker: str, tokens: TokenInput, keep: int, *, now: float) -> None:
        """`worker` no longer holds the prefix `tokens` beyond its first `keep`; with no tokens, holds nothing."""
        slot = self.fleet.slot(worker)
        packed = pack(tokens)
        if packed:
            self.tree.truncate(packed, keep, slot)
        else:
            self.tree.clear(slot)
        self._resize(slot)

    def rebalance(self, now: float) -> list[Move]:
        """Propose to move requests that wait on an overloaded worker to one that would start them much sooner.

        Nothing changes here: to carry a move out, take the request from its worker, `finish` it and `submit` it again.
        Only policies that ask for it (`relieves`) have their placements corrected; the baselines do not.
        """
        if not getattr(self.policy, "relieves", False):
            return []
        waiting = [request for request in self._requests.values() if request.slot >= 0 and not request.started]
        return moves([(request, self._query(request)) for request in waiting], self.fleet)

    def explain(self, id: RequestId) -> Receipt:
        """Why a recent request went where it went. Raises KeyError if it is too long ago or unknown."""
        return self._receipts.receipt(id)

    def snapshot(self) -> Snapshot:
        """Return the state now; changes nothing."""
        return Snapshot(
            workers=tuple(self._state(slot) for slot in self.fleet.live),
            requests=len(self._requests),
            tree_nodes=self.tree.nodes,
            tree_tokens=self.tree.tokens,
        )

    def check(self) -> None:
        """Raise AssertionError if load, tree or counts differ from what the requests in flight imply."""
        self.tree.check()
        for slot in self.fleet.live:
            here = [request for request in self._requests.values() if request.slot == slot]
            pending = sum(request.prefill for request in here)
            load = pending + sum(request.decode for request in here)
            assert self.fleet.requests[slot] == len(here), f"slot {slot}: request count"
            assert np.isclose(self.fleet.pending[slot], pending, atol=1e-6), f"slot {slot}: pending prefill"
            assert np.isclose(self.fleet.load[slot], load, atol=1e-6), f"slot {slot}: load"
            free = self.fleet.slots[slot].kv_tokens - self.tree.held_tokens(slot)
            assert self.fleet.free[slot] == free, f"slot {slot}: free tokens"
            pins = Counter(request.node for request in here)
            assert self.tree.pins(slot) == pins, f"slot {slot}: pins are not those of the requests in flight"

    def _query(self, request: _Request) -> Query:
        match = self.tree.match(request.tokens)
        cached = self.fleet.cached(match.levels, request.length)
        return Query(request.length, request.max_tokens, request.session, request.priority, match, cached)

    def _charge(self, request: _Request) -> float:
        """Account a request on its slot; return the predicted seconds to its first token."""
        fleet, slot = self.fleet, request.slot
        worker = fleet.slots[slot]
        request.prefill = worker.prefill_seconds(request.length - request.cached, request.length)
        request.decode = worker.decode_seconds(request.length, request.max_tokens)
        fleet.charge(slot, prefill=request.prefill, decode=request.decode)
        fleet.requests[slot] += 1
        fleet.saw_prompt(slot, request.cached / request.length)
        return float(fleet.pending[slot])

    def _release(self, request: _Request) -> None:
        self.fleet.charge(request.slot, prefill=-request.prefill, decode=-request.decode)
        self.fleet.requests[request.slot] -= 1
        if not self.fleet.requests[request.slot]:
            # An idle worker has exactly nothing to do: rounding errors must not add up over days.
            self.fleet.load[request.slot] = self.fleet.pending[request.slot] = 0.0

    def _keep(self, request: _Request, generated: bytes) -> None:
        self.fleet.saw_output(request.slot, len(generated) // TOKEN_BYTES)
        # The last token was never fed back, so its keys and values do not exist.
        self.tree.extend(request.node, generated[:-TOKEN_BYTES], request.slot)

    def _resize(self, slot: int) -> None:
        """Keep what a worker is believed to hold within its cache, and tell the fleet how much is free."""
        held, capacity = self.tree.held_tokens(slot), self.fleet.slots[slot].kv_tokens
        if held > capacity:
            excess = held - (capacity if slot in self._estimated else int(_OVERHANG * capacity))
            if excess > 0:
                self.tree.evict(slot, excess)
                held = self.tree.held_tokens(slot)
        self.fleet.free[slot] = capacity - held

    def _worker(self, slot: int) -> str:
        worker = self.fleet.names[slot]
        assert worker is not None
        return worker

    def _state(self, slot: int) -> WorkerState:
        fleet = self.fleet
        return WorkerState(
            worker=self._worker(slot),
            load=float(fleet.load[slot]),
            requests=int(fleet.requests[slot]),
            held_tokens=self.tree.held_tokens(slot),
            kv_tokens=fleet.slots[slot].kv_tokens,
        )
