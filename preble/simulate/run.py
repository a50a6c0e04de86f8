"""Virtual time: one heap of events around the scheduler and engines that serve live too."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

from preble.backends import Delta, EngineRequest, Evicted, StepTiming
from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.scheduler import Scheduler
from preble.dispatch.copying import Copying
from preble.errors import InvalidRequestError, NoWorkersError
from preble.simulate.changes import Change
from preble.simulate.request import Request
from preble.simulate.result import Result
from preble.simulate.sessions import Sessions
from preble.simulate.worker import Worker
from preble.tokens import TOKEN_BYTES
from preble.types import SamplingParams

Report = tuple[Worker, list[Evicted], list[tuple[int, Delta]], list[StepTiming]]

MAX_ATTEMPTS = 3
"""Workers tried before the death of the last one fails the request, as in `preble.dispatch.dispatcher`."""


class Flight:
    """A request on its way: what the dispatcher knows of it. `wire` names it to the worker, anew for each placement.

    The first `offset` bytes of `output` came from earlier workers: they are prompt to the present one.
    """

    __slots__ = ("arrival", "attempts", "computed", "index", "moved", "offset", "output", "tokens", "wire", "worker")

    def __init__(self, index: int, tokens: bytes, arrival: float) -> None:
        self.index = index
        self.tokens = tokens
        self.arrival = arrival
        self.output = bytearray()
        self.offset = 0
        self.attempts = 0
        self.computed = False
        self.moved = False
        self.wire = 0
        self.worker: Worker


class Run:
    """One simulation. What it does to the scheduler and the engines is what the dispatcher and a worker do live.

    `report_delay` seconds pass until the scheduler, and the user, hear what an engine says.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        scheduler: Scheduler,
        workers: Sequence[Worker],
        *,
        report_delay: float,
        rebalance_interval: float,
        learning: bool = True,
        progress: Callable[[], object],
        changes: Sequence[Change] = (),
    ) -> None:
        self.result = Result.empty(len(requests), len(workers))
        self._requests = requests
        self._sessions = Sessions(requests)
        self._scheduler = scheduler
        self._workers = {worker.name: worker for worker in workers}
        self._report_delay = report_delay
        self._interval = rebalance_interval
        self._learning = learning
        self._progress = progress
        self._changes = changes
        self._copying = Copying(scheduler)
        self._draining: list[Worker] = []
        self._bound = max((request.output_tokens for request in requests), default=1)
        self._flights: dict[int, Flight] = {}
        self._by_wire: dict[int, Flight] = {}
        self._order = itertools.count()
        self._wires = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._ticking = False

    def run(self) -> Result:
        """Run to the end."""
        for _ in self.events():
            pass
        return self.result

    def events(self) -> Iterator[float]:
        """Run, and yield the time after each event."""
        for change in self._changes:
            self._at(change.at, self._change, change)
        for index, request in enumerate(self._requests):
            if request.arrival is not None:
                self._at(request.arrival, self._arrive, index)
        while self._events:
            now, _, act, about = heappop(self._events)
            act(now, about)
            yield now
        for worker in self._workers.values():
            self._leave(worker)

    @property
    def idle(self) -> bool:
        """True if nothing is in flight, or will be."""
        return not self._flights and not self._copying and not self._events

    def check(self) -> None:
        """Raise AssertionError if the books of flights, scheduler and engines disagree."""
        in_flight = len(self._flights) + len(self._copying)
        assert self._scheduler.snapshot().requests == in_flight, "scheduler and flights differ"
        assert {flight.wire for flight in self._flights.values()} == set(self._by_wire), "wires and flights differ"
        self._scheduler.check()
        for worker in self._workers.values():
            if not worker.gone:
                worker.core.check()

    def _at(self, time: float, act: Callable[[float, Any], None], about: Any) -> None:
        heappush(self._events, (time, next(self._order), act, about))

    def _arrive(self, now: float, index: int) -> None:
        request, result = self._requests[index], self.result
        flight = self._flights[index] = Flight(index, self._sessions.prompt(index), now)
        result.arrival[index] = now
        result.prompt_tokens[index] = len(flight.tokens) // TOKEN_BYTES
        if request.cancel_after is not None:
            self._at(now + request.cancel_after, self._cancel, flight)
        if not self._ticking and self._interval:
            self._ticking = True
            self._at(now + self._interval, self._rebalance, None)
        self._place(now, flight)

    def _place(self, now: float, flight: Flight) -> None:
        """Let the scheduler choose, and send."""
        self._dispatch(now, flight, self._choose(now, flight))

    def _choose(self, now: float, flight: Flight) -> Worker | None:
        """Return the scheduler's choice, None if there is no worker. What was generated before becomes prompt."""
        index, request, result = flight.index, self._requests[flight.index], self.result
        bound = self._bound if request.max_tokens is None else request.max_tokens
        left = max(0, bound - len(flight.output) // TOKEN_BYTES)
        tokens = flight.tokens + bytes(flight.output)
        try:
            placement = self._scheduler.submit(index, tokens, max_tokens=left, session=request.session, now=now)
        except NoWorkersError:
            return None
        result.predicted_cached[index] = placement.cached_tokens
        result.predicted_ttft[index] = placement.predicted_ttft
        return self._workers[placement.worker]

    def _dispatch(self, now: float, flight: Flight, worker: Worker | None) -> None:
        self._by_wire.pop(flight.wire, None)
        if worker is None:
            self._end(now, flight)
            return
        flight.worker = worker
        flight.wire, flight.offset, flight.computed = next(self._wires), len(flight.output), False
        flight.attempts += 1
        self._by_wire[flight.wire] = flight
        self.result.worker[flight.index] = worker.index
        left = self._requests[flight.index].output_tokens - len(flight.output) // TOKEN_BYTES
        self._send(now, worker, EngineRequest(flight.wire, flight.tokens + bytes(flight.output), _sampling(left)))

    def _send(self, now: float, worker: Worker, request: EngineRequest) -> None:
        try:
            worker.core.batcher.add(request, now)
        except InvalidRequestError:
            self._end(now, self._by_wire[request.id])
        else:
            if not worker.stepping:
                self._begin(now, worker)

    def _begin(self, now: float, worker: Worker) -> None:
        end = worker.core.begin(now)
        worker.stepping = end is not None
        if end is not None:
            self._at(end, self._step, worker)
        self._report(now, worker)

    def _step(self, now: float, worker: Worker) -> None:
        if not worker.gone:
            timing = worker.core.end(now)
            self.result.busy[worker.index] += timing.seconds
            worker.timings.append(timing)
            self._begin(now, worker)

    def _report(self, now: float, worker: Worker) -> None:
        batcher = worker.core.batcher
        report = worker, batcher.cache_events(), batcher.deltas(), worker.timings
        worker.timings = []
        if self._report_delay:
            self._at(now + self._report_delay, self._hear, report)
        else:
            self._hear(now, report)

    def _hear(self, now: float, report: Report) -> None:
        worker, evictions, deltas, timings = report
        if worker.gone:
            return
        if timings and self._learning:
            self._scheduler.observe(worker.name, timings, now=now)
        for evicted in evictions:
            self._scheduler.evicted(worker.name, evicted.tokens, evicted.keep, now=now)
        for wire, delta in deltas:
            flight = self._by_wire.get(wire)
            if flight is not None:
                self._take_in(now, flight, delta)
            elif wire in self._copying:
                self._copied(now, worker, wire, delta)

    def _take_in(self, now: float, flight: Flight, delta: Delta) -> None:
        index, result = flight.index, self.result
        if delta.cached_tokens is not None:
            if not flight.output:
                result.cached[index] = delta.cached_tokens
            self._scheduler.started(index, cached_tokens=delta.cached_tokens, now=now)
        if delta.tokens and not flight.computed:
            flight.computed = True
            if not flight.output:
                result.ttft[index] = now - flight.arrival
            self._scheduler.first_token(index, now=now)
        flight.output += delta.tokens
        if delta.finish_reason is not None:
            result.latency[index] = now - flight.arrival
            self._end(now, flight)

    def _end(self, now: float, flight: Flight) -> None:
        index, output = flight.index, bytes(flight.output)
        del self._flights[index]
        self._by_wire.pop(flight.wire, None)
        with contextlib.suppress(KeyError):  # never placed: no worker took requests
            self._scheduler.finish(index, output=output[flight.offset :], now=now)
        self.result.output_tokens[index] = len(output) // TOKEN_BYTES
        self._let_go(now)
        for following, gap in self._sessions.ended(index, output):
            self._at(now + gap, self._arrive, following)
        self._progress()

    def _cancel(self, now: float, flight: Flight) -> None:
        if flight.index in self._flights:
            self._abort(flight)
            self._end(now, flight)

    def _abort(self, flight: Flight) -> None:
        """Take a request from its worker; what that still says of it is not heard."""
        flight.worker.core.batcher.abort(flight.wire)

    def _rebalance(self, now: float, _: None) -> None:
        self._ticking = bool(self._flights)
        if self._ticking:
            self._at(now + self._interval, self._rebalance, None)
            for move in self._scheduler.rebalance(now):
                self._move(now, self._flights[int(str(move.id))])
            for copy in self._scheduler.copies(now):
                self._copy(now, copy)

    def _move(self, now: float, flight: Flight) -> None:
        """As live: once per request, so that none wanders; it keeps its place if its own worker is chosen again."""
        if flight.moved:
            return
        flight.moved = True
        self._scheduler.finish(flight.index, now=now)
        worker = self._choose(now, flight)
        if worker is not flight.worker:
            self.result.moved[flight.index] = worker is not None
            self._abort(flight)
            self._dispatch(now, flight, worker)
        self._let_go(now)

    def _copy(self, now: float, copy: Copy) -> None:
        """As live: a request for one token, behind all others."""
        worker, wire = self._workers[copy.target], next(self._wires)
        self._copying.begin(copy, wire, now)
        self._send(now, worker, EngineRequest(wire, copy.tokens, _sampling(1), priority=COPY_PRIORITY))

    def _copied(self, now: float, worker: Worker, wire: int, delta: Delta) -> None:
        self._copying.take_in(wire, delta, now)
        self.result.copied[worker.index] += bool(delta.tokens)
        self._let_go(now)

    def _change(self, now: float, change: Change) -> None:
        worker = self._workers[f"w{change.worker}"]
        if change.action == "join":
            self._workers[worker.name] = worker.anew()
            self._workers[worker.name].join(self._scheduler, now)
        elif change.action == "drain":
            self._scheduler.drain_worker(worker.name, now=now)
            self._draining.append(worker)
            self._let_go(now)
        elif not worker.gone:
            self._lose(now, worker)

    def _lose(self, now: float, worker: Worker) -> None:
        """A worker is gone: its requests go elsewhere with what they have generated so far."""
        self._leave(worker)
        lost = self._scheduler.remove_worker(worker.name, now=now)
        self._copying.lost(worker.name, now)
        orphans = [self._flights[id] for id in lost if isinstance(id, int)]
        for flight in orphans:
            self._by_wire.pop(flight.wire, None)
        for flight in orphans:
            if flight.attempts >= MAX_ATTEMPTS:
                self._end(now, flight)
            else:
                self.result.retries[flight.index] += 1
                self._place(now, flight)

    def _let_go(self, now: float) -> None:
        """Drained workers leave when they have nothing left to do."""
        for worker in self._draining[:]:
            if not self._scheduler.requests_on(worker.name):
                self._leave(worker)
                self._scheduler.remove_worker(worker.name, now=now)

    def _leave(self, worker: Worker) -> None:
        """Hear no more of a worker, and keep what it counted."""
        if not worker.gone:
            worker.gone = True
            self.result.preemptions[worker.index] += worker.core.batcher.preemptions
            self.result.recomputed[worker.index] += worker.core.batcher.recomputed
        if worker in self._draining:
            self._draining.remove(worker)


@lru_cache
def _sampling(output_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
