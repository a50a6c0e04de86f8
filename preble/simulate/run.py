"""Virtual time: one heap of events around the scheduler and engines that serve live too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

from preble.backends import Delta, EngineRequest, Evicted, StepTiming
from preble.backends.sim import SimCore
from preble.core.scheduler import Scheduler
from preble.errors import InvalidRequestError
from preble.simulate.request import Request
from preble.simulate.result import Result
from preble.simulate.sessions import Sessions
from preble.tokens import TOKEN_BYTES
from preble.types import SamplingParams

Report = tuple["Worker", list[Evicted], list[tuple[int, Delta]], list[StepTiming]]


class Worker:
    """A simulated engine, whether a step of it is under way, and the steps it has not told of."""

    __slots__ = ("core", "index", "name", "stepping", "timings")

    def __init__(self, index: int, core: SimCore) -> None:
        self.index = index
        self.name = f"w{index}"
        self.core = core
        self.stepping = False
        self.timings: list[StepTiming] = []


class Flight:
    """A request on its way: what the dispatcher knows of it. `wire` names it to the worker, anew for each placement."""

    __slots__ = ("arrival", "index", "landed", "moved", "output", "tokens", "wire", "worker")

    def __init__(self, index: int, tokens: bytes, arrival: float) -> None:
        self.index = index
        self.tokens = tokens
        self.arrival = arrival
        self.output = bytearray()
        self.landed = False
        self.moved = False
        self.wire = 0
        self.worker: Worker


class Run:
    """One simulation. What it does to the scheduler and the engines is what `preble.dispatch` and a worker do live.

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
        for index, request in enumerate(self._requests):
            if request.arrival is not None:
                self._at(request.arrival, self._arrive, index)
        while self._events:
            now, _, act, about = heappop(self._events)
            act(now, about)
            yield now

    @property
    def idle(self) -> bool:
        """True if nothing is in flight, or will be."""
        return not self._flights and not self._events

    def check(self) -> None:
        """Raise AssertionError if the books of flights, scheduler and engines disagree."""
        assert self._scheduler.snapshot().requests == len(self._flights), "scheduler and flights differ"
        assert {flight.wire for flight in self._flights.values()} == set(self._by_wire), "wires and flights differ"
        self._scheduler.check()
        for worker in self._workers.values():
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
        index, request = flight.index, self._requests[flight.index]
        bound = self._bound if request.max_tokens is None else request.max_tokens
        placement = self._scheduler.submit(index, flight.tokens, max_tokens=bound, session=request.session, now=now)
        worker = flight.worker = self._workers[placement.worker]
        flight.wire = next(self._wires)
        self._by_wire[flight.wire] = flight
        self.result.worker[index] = worker.index
        self.result.predicted_cached[index] = placement.cached_tokens
        self.result.predicted_ttft[index] = placement.predicted_ttft
        try:
            worker.core.batcher.add(EngineRequest(flight.wire, flight.tokens, _sampling(request.output_tokens)), now)
        except InvalidRequestError:
            self._end(now, flight)
        else:
            if not worker.stepping:
                self._begin(now, worker)

    def _begin(self, now: float, worker: Worker) -> None:
        end = worker.core.begin(now)
        worker.stepping = end is not None
        if end is not None:
            self.result.busy[worker.index] += end - now
            self._at(end, self._step, worker)
        self._report(now, worker)

    def _step(self, now: float, worker: Worker) -> None:
        worker.timings.append(worker.core.end(now))
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
        if timings and self._learning:
            self._scheduler.observe(worker.name, timings, now=now)
        for evicted in evictions:
            self._scheduler.evicted(worker.name, evicted.tokens, evicted.keep, now=now)
        for wire, delta in deltas:
            flight = self._by_wire.get(wire)
            if flight is not None:
                self._take_in(now, flight, delta)

    def _take_in(self, now: float, flight: Flight, delta: Delta) -> None:
        if delta.cached_tokens is not None:
            self.result.cached[flight.index] = delta.cached_tokens
            self._scheduler.started(flight.index, cached_tokens=delta.cached_tokens, now=now)
        flight.output += delta.tokens
        if delta.tokens and not flight.landed:
            flight.landed = True
            self.result.ttft[flight.index] = now - flight.arrival
            self._scheduler.first_token(flight.index, now=now)
        if delta.finish_reason is not None:
            self.result.latency[flight.index] = now - flight.arrival
            self._end(now, flight)

    def _end(self, now: float, flight: Flight) -> None:
        index, output = flight.index, bytes(flight.output)
        del self._flights[index], self._by_wire[flight.wire]
        self._scheduler.finish(index, output=output, now=now)
        self.result.output_tokens[index] = len(output) // TOKEN_BYTES
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

    def _move(self, now: float, flight: Flight) -> None:
        """As live: once per request, so that none wanders."""
        if flight.moved:
            return
        flight.moved = self.result.moved[flight.index] = True
        self._abort(flight)
        del self._by_wire[flight.wire]
        self._scheduler.finish(flight.index, now=now)
        self._place(now, flight)


@lru_cache
def _sampling(output_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
