"""Virtual time: one heap of events around the dispatcher and engines that serve live too."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

import msgspec

from preble.backends import EngineRequest
from preble.core.scheduler import Scheduler
from preble.dispatch.dispatcher import Dispatcher
from preble.dispatch.instructions import AskAgain, Instruction, Send, Wake
from preble.dispatch.request import InFlightRequest, Sample
from preble.errors import InvalidRequestError, NoWorkersError, WorkerLostError
from preble.simulate.changes import Change
from preble.simulate.request import Request
from preble.simulate.result import Result
from preble.simulate.sessions import Sessions
from preble.simulate.worker import Worker
from preble.tokens import TOKEN_BYTES
from preble.transport.schema import Abort, Step, Submit
from preble.types import RequestOptions, SamplingParams


class Run:
    """One simulation: it carries out what the dispatcher says, as a running cluster does, on simulated engines.

    `report_delay` seconds pass until the dispatcher, and the user, hear what an engine says.
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
        self._dispatcher = Dispatcher(scheduler, rebalance_interval=rebalance_interval)
        self._workers = {worker.name: worker for worker in workers}
        self._report_delay = report_delay
        self._learning = learning
        self._progress = progress
        self._changes = changes
        self._draining: list[Worker] = []
        self._max_tokens = max((request.output_tokens for request in requests), default=1)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._ask_at = math.inf

    def run(self) -> Result:
        """Run to the end."""
        for _ in self.events():
            pass
        return self.result

    def events(self) -> Iterator[float]:
        """Run, and yield the time after each event. The dispatcher's timer alone keeps nothing going."""
        for change in self._changes:
            self._at(change.at, self._change, change)
        for index, request in enumerate(self._requests):
            if request.arrival is not None:
                self._at(request.arrival, self._arrive, index)
        self._ask_first()
        while self._events:
            if self._ask_at < self._events[0][0]:
                now, self._ask_at = self._ask_at, math.inf
                self._carry_out(self._dispatcher.on_time(now), now)
            else:
                now, _, act, about = heappop(self._events)
                act(now, about)
            yield now
        for worker in self._workers.values():
            self._leave(worker)

    def _ask_first(self) -> None:
        first = min((request.arrival for request in self._requests if request.arrival is not None), default=0.0)
        self._carry_out(self._dispatcher.start(first), first)

    @property
    def idle(self) -> bool:
        """True if nothing is in flight, or will be."""
        return not self._dispatcher.in_flight and not self._dispatcher.copies and not self._events

    def check(self) -> None:
        """Raise AssertionError if the books of dispatcher, scheduler and engines disagree."""
        self._dispatcher.check()
        for worker in self._workers.values():
            if not worker.gone:
                worker.core.check()

    def _at(self, time: float, act: Callable[[float, Any], None], about: Any) -> None:
        heappush(self._events, (time, next(self._order), act, about))

    def _arrive(self, now: float, index: int) -> None:
        request, result = self._requests[index], self.result
        sampling = _sampling(self._max_tokens if request.max_tokens is None else request.max_tokens)
        prompt, options = self._sessions.prompt(index), RequestOptions(session=request.session)
        in_flight = InFlightRequest(str(index), prompt, sampling, options, now=now)
        result.arrival[index] = now
        result.prompt_tokens[index] = len(prompt) // TOKEN_BYTES
        if request.cancel_after is not None:
            self._at(now + request.cancel_after, self._cancel, in_flight)
        try:
            instructions = self._dispatcher.submit(in_flight, now)
        except NoWorkersError:
            self._ended(now, in_flight.samples[0])
        else:
            self._carry_out(instructions, now)

    def _cancel(self, now: float, request: InFlightRequest) -> None:
        self._carry_out(self._dispatcher.release(request, now), now)

    def _carry_out(self, instructions: Iterable[Instruction], now: float) -> None:
        for instruction in instructions:
            match instruction:
                case Wake(sample):
                    self._ended(now, sample)
                case Send(worker, Submit(request)):
                    self._send(now, self._workers[worker], request)
                case Send(worker, Abort(ids)):
                    for id in ids:
                        self._workers[worker].core.batcher.abort(id)
                case AskAgain(at):
                    self._ask_at = min(self._ask_at, at)
        self._let_go(now)

    def _send(self, now: float, worker: Worker, request: EngineRequest) -> None:
        sample = self._dispatcher.sample_of(request.id)
        if sample is not None:
            request = self._as_generated(request, sample)
        try:
            worker.core.batcher.add(request, now)
        except InvalidRequestError as error:
            self._carry_out(self._dispatcher.on_failed(worker.name, request.id, error, now), now)
        else:
            if not worker.stepping:
                self._begin(now, worker)

    def _as_generated(self, request: EngineRequest, sample: Sample) -> EngineRequest:
        """The request with as many output tokens as the workload says; schedulers know `max_tokens` only."""
        left = self._requests[int(sample.request.id)].output_tokens - len(sample.output) // TOKEN_BYTES
        return msgspec.structs.replace(request, sampling=_sampling(left))

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
        batcher, timings = worker.core.batcher, tuple(worker.timings) if self._learning else ()
        step = Step(tuple(batcher.cache_events()), tuple(batcher.deltas()), (), batcher.load(), timings)
        worker.timings.clear()
        if self._report_delay:
            self._at(now + self._report_delay, self._hear, (worker, step))
        else:
            self._hear(now, (worker, step))

    def _hear(self, now: float, report: tuple[Worker, Step]) -> None:
        worker, step = report
        if not worker.gone:
            copied = sum(bool(delta.tokens) for id, delta in step.deltas if id in self._dispatcher.copies)
            self.result.copied[worker.index] += copied
            self._carry_out(self._dispatcher.on_step(worker.name, step, now), now)

    def _ended(self, now: float, sample: Sample) -> None:
        """Note what became of a request, and let those come that waited for its end."""
        index, output, result = int(sample.request.id), bytes(sample.output), self.result
        result.output_tokens[index] = len(output) // TOKEN_BYTES
        result.cached[index] = sample.cached_tokens
        result.moved[index], result.retries[index] = sample.moved, sample.retries
        if sample.worker:
            result.worker[index] = self._workers[sample.worker].index
        if sample.placement is not None:
            result.predicted_cached[index] = sample.placement.cached_tokens
            result.predicted_ttft[index] = sample.placement.predicted_ttft
        if output and sample.first_token_at is not None:
            result.ttft[index] = sample.first_token_at - sample.request.submitted_at
        if sample.error is None and sample.finish_reason in ("stop", "length"):
            result.latency[index] = now - sample.request.submitted_at
        for following, gap in self._sessions.ended(index, output):
            self._at(now + gap, self._arrive, following)
        self._progress()

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
        gone = WorkerLostError("the worker is gone", worker=worker.name)
        self._carry_out(self._dispatcher.on_lost(worker.name, gone, now), now)

    def _let_go(self, now: float) -> None:
        """Drained workers leave when they have nothing left to do."""
        for worker in self._draining[:]:
            if not worker.gone and not self._scheduler.requests_on(worker.name):  # losing one looks for others too
                self._lose(now, worker)

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
