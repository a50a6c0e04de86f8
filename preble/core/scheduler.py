"""The global scheduler: pure state that is told what happens and when (paper section 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import cast

import msgspec
import numpy as np

from preble.core import ledger
from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.cost import Coefficients, CostModel, StepTiming, cost_model
from preble.core.fleet import Fleet, served_namespaces
from preble.core.hooks import bind_hooks
from preble.core.inferred import InferredSteps
from preble.core.log import (
    AddWorker,
    AdjustWorker,
    DecisionLog,
    DrainWorker,
    Evict,
    Finish,
    FirstToken,
    Id,
    Observe,
    Rebalance,
    RemoveWorker,
    Started,
    Submitted,
    check_loggable,
)
from preble.core.policies import policy_named
from preble.core.policy import Decision, Policy, Query
from preble.core.rebalance import Move, moves
from preble.core.receipt import Candidate, Receipt, Receipts, candidates
from preble.core.request import NOWHERE, Request, RequestId
from preble.core.snapshot import Snapshot, WorkerState
from preble.errors import ConfigurationError, InvalidRequestError, names_checked
from preble.tokens import TOKEN_BYTES, TokenInput, pack
from preble.tree import Namespaces, RadixTree, cache_salt
from preble.tree.namespaces import negative
from preble.wait_queue.disciplines import DISCIPLINES, SHORT_FIRST, Discipline

ASSIGNED_BY_CALLER = "assigned by caller"
"""The `reason` of a placement whose worker the caller of `submit` had chosen."""

_OVERHANG = 1.25  # of a worker's KV tokens, kept in the tree before its own eviction reports are disbelieved


class Placement(msgspec.Struct, frozen=True):
    """Where a request goes, and what to expect there: cached prompt tokens, seconds to its first token."""

    worker: str
    cached_tokens: int
    reason: str
    predicted_ttft: float


class Scheduler:
    """Places requests on workers. It knows which worker holds which prefix, and how much work each has left.

    It can be used without a cluster, since it does no I/O and has no clock. Methods take `now`, in seconds on any clock
    that does not go back. Each `submit` is charged at once, and needs exactly one `finish`.

    >>> scheduler = Scheduler()
    >>> scheduler.add_worker("a", kv_tokens=100_000, now=0.0)
    >>> placement = scheduler.submit("r1", [1, 2, 3], now=0.0)
    >>> scheduler.finish("r1", output=[4, 5], now=1.0)
    """

    @names_checked
    def __init__(
        self,
        policy: str | Policy = "e2",
        *,
        seed: int = 0,
        receipts: int = 1024,
        log: Callable[[bytes], object] | None = None,
    ) -> None:
        """`seed` breaks ties; the last `receipts` decisions can be explained. Raises ConfigurationError.

        `log` is called with every line of the decision log (`preble.core.log`), which holds all prompts and outputs;
        request ids must be strings or integers then.
        """
        name = policy if isinstance(policy, str) else type(policy).__name__
        self._log = None if log is None else DecisionLog(log, policy=name, seed=seed)
        self.policy = policy_named(policy)
        self.tree = RadixTree()
        self._namespaces = Namespaces(self.tree.has_prefix_token)
        self.fleet = Fleet(seed)
        self._hooks = bind_hooks(self.policy)
        self._hooks.attached(self.fleet)
        self._requests: dict[RequestId, Request] = {}
        self._receipts = Receipts(receipts)
        self._estimated: set[int] = set()
        self._inferred = InferredSteps()

    @property
    def workers(self) -> list[str]:
        """Names of the workers, in the order of their slots."""
        return [self._worker(slot) for slot in self.fleet.present]

    def add_worker(
        self,
        worker: str,
        *,
        kv_tokens: int,
        block_size: int = 1,
        cost: CostModel | str = "mistral-7b-a6000",
        max_batched_tokens: int | None = None,
        discipline: Discipline = "fcfs",
        reports_evictions: bool = False,
        reports_steps: bool = True,
        namespaces: Iterable[str] | None = None,
        context_limit: int | None = None,
        now: float,
    ) -> None:
        """Let `worker` have requests. Its cache is empty, and holds `kv_tokens` tokens in blocks of `block_size`.

        `cost` are the prices to start from. `max_batched_tokens` is what its engine computes in a step at most, so that
        longer prefills take several; None if it is not known. `discipline` is the order of its wait queue. Set
        `reports_evictions` if you call `evicted`, else evictions are estimated, least recently used first. Clear
        `reports_steps` if you do not call `observe`, then step times are inferred from first tokens and ends. With
        `namespaces` it gets requests of these only ("" stands for requests that name none), else of all. Prompt and
        output of its requests have room in `context_limit` tokens, if given.
        Raises ConfigurationError if there is a worker of this name, for sizes below 1, for an empty list of namespaces,
        and for an unknown cost or discipline.
        """
        if discipline not in DISCIPLINES:
            raise ConfigurationError(f"discipline: unknown {discipline!r}, one of {', '.join(DISCIPLINES)}")
        served = served_namespaces(namespaces)
        slot = self.fleet.add(
            worker,
            kv_tokens=kv_tokens,
            block_size=block_size,
            cost=cost_model(cost),
            max_batched_tokens=max_batched_tokens,
            short_first=discipline in SHORT_FIRST,
            namespaces=served,
            context_limit=context_limit,
        )
        if not reports_evictions:
            self._estimated.add(slot)
        if not reports_steps:
            self._inferred.watch(slot)
        self._hooks.worker_added(slot, now)
        if self._log is not None:
            names = None if served is None else tuple(sorted(served))
            model, reports = cost_model(cost), reports_evictions
            limits = max_batched_tokens, discipline, context_limit
            self._log.add(AddWorker(worker, kv_tokens, block_size, model, reports, now, names, *limits))

    def adjust_worker(self, worker: str, *, paused: bool = False, penalty: float = 0.0, now: float) -> None:
        """Give `worker` no new requests while it is `paused`, and add `penalty` seconds to its load in each choice.

        Those that it has go on. Call it again without arguments to take both back. Raises ConfigurationError if there
        is no such worker.
        """
        self.fleet.adjust(worker, paused=paused, penalty=penalty)
        if self._log is not None:
            self._log.add(AdjustWorker(worker, paused, penalty, now))

    def drain_worker(self, worker: str, *, now: float) -> None:
        """Give `worker` no more requests; it finishes those that it has. Draining it again changes nothing.

        `rebalance` may move requests that only wait there. Raises ConfigurationError if there is no such worker.
        """
        self.fleet.drain(worker)
        if self._log is not None:
            self._log.add(DrainWorker(worker, now))

    def requests_on(self, worker: str) -> int:
        """Return how many requests are in flight on `worker`; 0 if there is no such worker."""
        slot = self.fleet.slot_of.get(worker)
        return 0 if slot is None else int(self.fleet.requests[slot])

    def remove_worker(self, worker: str, *, now: float) -> list[RequestId]:
        """Forget a worker and all that it held. Returns its requests in order of submission.

        These are on no worker now: submit each again under the same id, or finish it.
        """
        slot = self.fleet.slot(worker)
        orphans = self._here(slot)
        for request in orphans:
            ledger.leave(self.fleet, request)
            self.tree.unpin(request.node, slot)
            self._hooks.finished(request, b"", now)
            request.slot = NOWHERE
        self.tree.remove_worker(slot)
        self.fleet.remove(worker)
        self._estimated.discard(slot)
        self._inferred.forget(slot)
        self._hooks.worker_removed(slot, now)
        if self._log is not None:
            self._log.add(RemoveWorker(worker, now))
        return [request.id for request in orphans]

    def submit(
        self,
        id: RequestId,
        tokens: TokenInput,
        *,
        max_tokens: int = 128,
        session: str | None = None,
        priority: int = 0,
        namespace: str = "",
        tenant: str = "",
        worker: str | None = None,
        excluded: Collection[str] = (),
        now: float,
    ) -> Placement:
        """Choose a worker for a prompt, and charge it at once. With `worker`, the choice is made already.

        Only requests of the same `namespace` (a model, a LoRA adapter) and the same `tenant` share prefixes. Workers
        `excluded` by name are not chosen, since the request failed there.
        Raises InvalidRequestError for an empty prompt, a negative `max_tokens` or an id in flight, ContextLengthError
        if no worker has a context for the prompt, NoWorkersError without workers that can take it now,
        NamespaceNotServedError without one for its namespace, ConfigurationError if the policy chose a slot without
        such a worker. Then nothing has changed.
        """
        packed = pack(tokens)
        self._require_new(id, packed, max_tokens)
        if self._log is not None:
            check_loggable(id, session, namespace, tenant)
        key = self._namespaces.key(cache_salt(namespace, tenant), packed) if namespace or tenant else packed
        match, length = self.tree.match(key), len(packed) // TOKEN_BYTES
        cached = self.fleet.cached(match.levels, length)
        query = Query(length, max_tokens, session, priority, match, cached, namespace)
        fleet = self.fleet
        if fleet.restricted or excluded or length + (max_tokens or 1) > fleet.shortest_context:
            fleet = fleet.serving(namespace, length, max_tokens, excluded)
        decision = self.policy.place(query, fleet, now) if worker is None else self._assigned(worker, fleet)
        if not isinstance(decision, Decision) or not isinstance(decision.slot, int):
            raise ConfigurationError(f"policy: place returned {decision!r}, which is no Decision of a slot")
        slot = decision.slot
        if not (0 <= slot < len(fleet.slots) and fleet.slots[slot].accepts_requests and fleet.names[slot] is not None):
            raise ConfigurationError(f"policy: chose slot {slot}, which has no worker that takes this request")
        node = self.tree.insert(key, slot, match=match)
        self._requests.pop(id, None)  # an orphan's old place in the order of submission
        request = self._requests[id] = Request(id, key, query, slot, node, now)
        predicted = ledger.enter(self.fleet, request)
        self._resize(slot, now)
        self._receipts.decided(id, decision, query, fleet.names, predicted, now)
        self._inferred.placed(request, now)
        self._hooks.placed(request, now)
        placement = Placement(self._worker(slot), request.cached, decision.reason, predicted)
        if self._log is not None:
            choice = candidates(decision, query.believed, fleet.names)
            self._log.add(_submitted(request, packed, tenant, worker, placement, choice, tuple(excluded)))
        return placement

    def started(self, id: RequestId, *, cached_tokens: int | None, now: float) -> None:
        """Say that the engine began the prefill and found `cached_tokens` of the prompt in its cache.

        What was believed is corrected. Pass None if the engine does not know the number yet, and call this again when
        it does. An engine that reports nothing before the first token needs no call: `first_token` implies the start.
        """
        request = self._requests[id]
        if request.slot < 0 or request.counted or (request.started and cached_tokens is None):
            return
        ledger.begin(self.fleet, request)
        if cached_tokens is not None:
            self._count(request, min(cached_tokens, request.length), now)  # engines may say anything
        if self._log is not None:
            self._log.add(Started(cast(Id, id), cached_tokens, now))

    def first_token(self, id: RequestId, *, now: float) -> None:
        """Say that the prefill is done, so that the whole prompt is cached on its worker."""
        request = self._requests[id]
        if request.slot < 0 or request.computed:
            return
        request.computed = True
        ledger.begin(self.fleet, request)
        self.tree.mark_computed(request.node, request.slot)
        ledger.release(self.fleet, request)
        self._receipts.first_token(id, now)
        self._inferred.computed(request, now)
        self._hooks.computed(request, now)
        if self._log is not None:
            self._log.add(FirstToken(cast(Id, id), now))

    def finish(self, id: RequestId, *, output: TokenInput = b"", now: float) -> None:
        """Say that the request ended, however it did. The generated tokens are cached too, for the next turn.

        A prompt whose prefill was not done is not believed cached. Raises KeyError for an unknown id.
        """
        generated = pack(output, field="output")
        if generated:
            self.first_token(id, now=now)
        request = self._requests.pop(id)
        if self._log is not None:
            self._log.add(Finish(cast(Id, id), now, generated))
        if request.slot < 0:
            return
        if generated:
            self._keep(request, generated)
        self.tree.unpin(request.node, request.slot)
        ledger.leave(self.fleet, request)
        self._hooks.finished(request, generated, now)
        self._resize(request.slot, now)
        if timings := self._inferred.finished(request, generated, now):
            self.observe(self._worker(request.slot), timings, now=now)

    def evicted(self, worker: str, tokens: TokenInput, keep: int, *, cache_salt: str = "", now: float) -> None:
        """Say that `worker` holds of the prefix `tokens` only the first `keep`; without tokens, that it holds nothing.

        `cache_salt` is `preble.tree.cache_salt(namespace, tenant)` of those whose prefix it was.
        """
        slot = self.fleet.slot(worker)
        packed = pack(tokens)
        if self._log is not None:
            self._log.add(Evict(worker, packed, keep, now, cache_salt))
        key = self._namespaces.known(cache_salt, packed)
        if key is None:
            return
        if key:
            self.tree.truncate(key, keep, slot, worker_block_size=self.fleet.slots[slot].block_size)
        else:
            self.tree.clear(slot)
        self._hooks.evicted(slot, key, keep, now)
        self._resize(slot, now)

    def observe(self, worker: str, timings: Iterable[StepTiming], *, now: float) -> None:
        """Learn prices from steps that `worker` took. What was charged before stays as it is."""
        slot, timings = self.fleet.slot(worker), tuple(timings)
        self.fleet.saw_steps(slot, timings)
        if self._log is not None:
            self._log.add(Observe(worker, timings, now))

    def prices(self, worker: str) -> Coefficients:
        """Return the prices of `worker`, in seconds: those of its preset, until its steps say otherwise."""
        return self.fleet.slots[self.fleet.slot(worker)].prices

    def rebalance(self, now: float) -> list[Move]:
        """Propose to move waiting requests from an overloaded worker to one that would start them much sooner.

        Nothing changes here. To carry a move out, take the request from its worker, `finish` it, and `submit` it again:
        the policy then chooses anew with all its terms, which did better in simulation than the move's target. Pass
        the target as `worker` to insist on it. Only for policies with `relieves`; others get an empty list.
        """
        if not self._hooks.relieves:
            return []
        waiting = [
            request
            for request in self._requests.values()
            if request.slot >= 0 and not request.started and request.priority < COPY_PRIORITY
        ]
        found = moves([(request, self._query(request)) for request in waiting], self.fleet)
        if found and self._log is not None:
            self._log.add(Rebalance(now, tuple((cast(Id, move.id), move.source, move.target) for move in found)))
        return found

    def copies(self, now: float) -> list[Copy]:
        """Return the prefixes that the policy wants other workers to compute in the background.

        To carry a copy out, `submit` its tokens with `max_tokens=1`, priority `COPY_PRIORITY` and its target as
        `worker`, and `finish` it without output. A proposed copy is not proposed again soon.
        """
        return self._hooks.copies(self.tree, now)

    def explain(self, id: RequestId) -> Receipt:
        """Return the receipt of a recent request. Raises KeyError if it is unknown or too long ago."""
        return self._receipts.receipt(id)

    def snapshot(self) -> Snapshot:
        """Return the state now; changes nothing."""
        return Snapshot(
            workers=tuple(self._state(slot) for slot in self.fleet.present),
            requests=len(self._requests),
            tree_nodes=self.tree.nodes,
            tree_tokens=self.tree.tokens,
        )

    def check(self) -> None:
        """Raise AssertionError if load, tree or counts differ from what the requests in flight imply."""
        self.tree.check()
        self._namespaces.check()
        self._hooks.check()
        for slot in self.fleet.present:
            here = self._here(slot)
            ledger.check(self.fleet, slot, here)
            self._inferred.check(slot, here)
            self.fleet.slots[slot].fit.check()
            strangers = [request.id for request in here if not self.fleet.slots[slot].serves(request.namespace)]
            assert not strangers, f"slot {slot}: {strangers} are of a namespace that it does not serve"
            free = self.fleet.slots[slot].kv_tokens - self.tree.held_tokens(slot)
            assert self.fleet.free[slot] == free, f"slot {slot}: free tokens"
            pins = Counter(request.node for request in here)
            assert self.tree.pins(slot) == pins, f"slot {slot}: pins are not those of the requests in flight"
        assert self.fleet.in_flight == self.fleet.requests.sum(), "requests in flight"
        assert self.fleet.occupied == np.count_nonzero(self.fleet.requests), "workers with requests"

    def _require_new(self, id: RequestId, packed: bytes, max_tokens: int) -> None:
        known = self._requests.get(id)
        if known is not None and known.slot >= 0:
            raise InvalidRequestError(f"{id!r} is in flight", field="id")
        if not packed:
            raise InvalidRequestError("must not be empty", field="tokens")
        if max_tokens < 0:
            raise InvalidRequestError(f"must be at least 0, not {max_tokens}", field="max_tokens")
        if negative(packed):
            raise InvalidRequestError("the first token is negative", field="tokens")

    def _query(self, request: Request) -> Query:
        match = self.tree.match(request.tokens)
        cached = self.fleet.cached(match.levels, request.length)
        namespace = request.namespace
        return Query(request.length, request.max_tokens, request.session, request.priority, match, cached, namespace)

    def _count(self, request: Request, cached_tokens: int, now: float) -> None:
        """So much was cached."""
        request.counted = True
        if cached_tokens != request.cached:
            self._correct(request, cached_tokens, now)
        self._receipts.started(request.id, cached_tokens, now)

    def _correct(self, request: Request, cached_tokens: int, now: float) -> None:
        """The engine found another amount cached than believed: say so to the tree, the load and what is learned."""
        slot, believed, request.cached = request.slot, request.cached, cached_tokens
        self.fleet.saw_prompt(slot, (cached_tokens - believed) / request.length + self.fleet.slots[slot].reuse)
        if request.computed:
            return  # whatever was missing has been computed
        ledger.release(self.fleet, request)
        ledger.charge(self.fleet, request)
        if cached_tokens < believed:
            self.tree.truncate(request.tokens, cached_tokens, slot, worker_block_size=self.fleet.slots[slot].block_size)
            self._hooks.evicted(slot, request.tokens, cached_tokens, now)
            self._resize(slot, now)

    def _keep(self, request: Request, generated: bytes) -> None:
        self.fleet.saw_output(request.slot, len(generated) // TOKEN_BYTES)
        # The last token was never fed back, so its keys and values do not exist.
        self.tree.extend(request.node, generated[:-TOKEN_BYTES], request.slot)

    def _resize(self, slot: int, now: float) -> None:
        """Keep what a worker is believed to hold within its cache, and tell the fleet how much is free."""
        held, capacity = self.tree.held_tokens(slot), self.fleet.slots[slot].kv_tokens
        if held > capacity:
            excess = held - (capacity if slot in self._estimated else int(_OVERHANG * capacity))
            if excess > 0:
                for gone in self.tree.evict(slot, excess, paths=self._hooks.hears_evictions):
                    self._hooks.evicted(slot, gone.tokens, gone.keep, now)
                held = self.tree.held_tokens(slot)
        self.fleet.set_free(slot, capacity - held)

    def _assigned(self, worker: str, fleet: Fleet) -> Decision:
        slot = fleet.slot(worker)
        if not fleet.slots[slot].accepts_requests:
            raise ConfigurationError(f"worker: {worker!r} is drained")
        if fleet.names[slot] is None:
            raise ConfigurationError(f"worker: {worker!r} does not serve this request, or is paused")
        return Decision(slot, ASSIGNED_BY_CALLER)

    def _worker(self, slot: int) -> str:
        worker = self.fleet.names[slot]
        assert worker is not None
        return worker

    def _here(self, slot: int) -> list[Request]:
        return [request for request in self._requests.values() if request.slot == slot]

    def _state(self, slot: int) -> WorkerState:
        fleet = self.fleet
        return WorkerState(
            worker=self._worker(slot),
            load=float(fleet.load[slot])
            if fleet.slots[slot].accepts_requests
            else ledger.outstanding(self._here(slot)),
            requests=int(fleet.requests[slot]),
            held_tokens=self.tree.held_tokens(slot),
            kv_tokens=fleet.slots[slot].kv_tokens,
            accepts_requests=fleet.slots[slot].accepts_requests,
        )


def _submitted(
    request: Request,
    tokens: bytes,
    tenant: str,
    assigned_by_caller: str | None,
    placement: Placement,
    choice: tuple[Candidate, ...],
    excluded: tuple[str, ...],
) -> Submitted:
    """The line of a decision: what was asked, and its receipt."""
    return Submitted(
        id=cast(Id, request.id),
        tokens=tokens,
        max_tokens=request.max_tokens,
        now=request.submitted_at,
        chosen=placement.worker,
        reason=placement.reason,
        cached_tokens=placement.cached_tokens,
        predicted_ttft=placement.predicted_ttft,
        candidates=choice,
        session=request.session,
        priority=request.priority,
        namespace=request.namespace,
        tenant=tenant,
        worker=assigned_by_caller,
        excluded=excluded,
    )
