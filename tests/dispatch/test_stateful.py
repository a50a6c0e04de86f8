"""Whatever happens in whatever order, every sample ends once, is on one worker meanwhile, and no book keeps it."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from preble.backends import Delta, EngineRequest, Load
from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.dispatch.dispatcher import MAX_ATTEMPTS, Dispatcher
from preble.dispatch.instructions import AskAgain, Instruction, Send, Wake
from preble.dispatch.request import InFlightRequest
from preble.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EngineError,
    NoWorkersError,
    OverloadedError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
)
from preble.tokens import TOKEN_BYTES, pack
from preble.transport.schema import Abort, Failed, Step, Submit
from preble.types import RequestOptions, SamplingParams

numbers = st.integers(0, 99)
ROOM = 12


class Fleet(RuleBasedStateMachine):
    """A dispatcher, and workers that hold what they were sent and have not been told to abort."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        full=st.booleans(),
        worker_wait=st.sampled_from([0.0, 0.2]),
        idle_timeout=st.sampled_from([float("inf"), 0.2]),
    )
    def start(self, policy: str, full: bool, worker_wait: float, idle_timeout: float) -> None:
        self.scheduler = Scheduler(policy)
        self.dispatcher = Dispatcher(
            self.scheduler, max_in_flight=ROOM, worker_wait=worker_wait, idle_timeout=idle_timeout
        )
        self.now, self.ask_at = 0.0, float("inf")
        self.full = full
        self.workers: dict[str, dict[int, EngineRequest]] = {}
        self.requests: list[InFlightRequest] = []
        self.ends: Counter[str] = Counter()
        self.count = 0
        self.lost: list[str] = []
        self.carry_out(self.dispatcher.start(self.now))
        for _ in range(2):
            self.add_worker()

    def carry_out(self, instructions: list[Instruction]) -> None:
        ended = [each.sample for each in instructions if isinstance(each, Wake) and each.sample.ended]
        self.ends.update(sample.id for sample in ended if not sample.request.streaming)
        # A stream may be woken for its last token and for its end in one answer.
        self.ends.update({sample.id for sample in ended if sample.request.streaming})
        for instruction in instructions:
            match instruction:
                case AskAgain(at):
                    assert at >= self.now
                    self.ask_at = min(self.ask_at, at)
                case Send(worker, Abort(ids)):
                    for id in ids:
                        self.workers.get(worker, {}).pop(id, None)
                case Send(worker, Submit(request)):
                    self.send(worker, request)

    def send(self, worker: str, request: EngineRequest) -> None:
        if self.full and len(self.workers[worker]) > 3:
            error = OverloadedError("the peer's queue is full", retry_after=0.1)
            self.carry_out(self.dispatcher.on_failed(worker, request.id, error, self.now))
        else:
            self.workers[worker][request.id] = request

    def tick(self) -> float:
        """A moment passes; the timer goes off in time."""
        self.now += 0.01
        if self.now >= self.ask_at:
            self.ask_at = float("inf")
            self.carry_out(self.dispatcher.on_time(self.now))
        return self.now

    @rule()
    def add_worker(self) -> None:
        if len(self.workers) < 4:
            self.count += 1
            self.join(f"w{self.count}")

    def join(self, worker: str) -> None:
        now = self.tick()
        self.scheduler.add_worker(worker, kv_tokens=200, now=now)
        self.workers[worker] = {}
        self.carry_out(self.dispatcher.on_added(worker, now))

    @precondition(lambda self: self.workers)
    @rule(index=numbers, fate=st.sampled_from(["lost", "returns", "removed"]))
    def lose_worker(self, index: int, fate: str) -> None:
        worker, now = sorted(self.workers)[index % len(self.workers)], self.tick()
        del self.workers[worker]
        if fate == "returns":
            self.lost.append(worker)
        error = WorkerLostError("gone", worker=worker)
        self.carry_out(
            self.dispatcher.on_lost(worker, error, now, returns=fate == "returns", removed=fate == "removed")
        )

    @precondition(lambda self: self.lost)
    @rule()
    def come_back(self) -> None:
        self.join(self.lost.pop())

    @precondition(lambda self: self.workers)
    @rule(index=numbers)
    def drain_worker(self, index: int) -> None:
        self.scheduler.drain_worker(sorted(self.workers)[index % len(self.workers)], now=self.tick())

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=12),
        n=st.integers(1, 3),
        max_tokens=st.integers(1, 4),
        patience=st.sampled_from([None, 0.05, 0.5]),
        streaming=st.booleans(),
    )
    def submit(self, prompt: list[int], n: int, max_tokens: int, patience: float | None, streaming: bool) -> None:
        self.count += 1
        now = self.tick()
        request = InFlightRequest(
            f"r{self.count}",
            pack(prompt),
            SamplingParams(n=n, max_tokens=max_tokens),
            RequestOptions(session=f"s{self.count % 3}"),
            now=now,
            deadline=None if patience is None else now + patience,
            streaming=streaming,
        )
        try:
            instructions = self.dispatcher.submit(request, now)
        except OverloadedError:
            statuses = [worker.status for worker in self.dispatcher.stats(now).workers]
            assert self.dispatcher.in_flight + n > ROOM or {"full", "open", "half_open"} & {*statuses}
        except NoWorkersError:
            assert all(sample.id not in self.ends for sample in request.samples)
        else:
            self.requests.append(request)
            self.carry_out(instructions)

    @precondition(lambda self: any(self.workers.values()))
    @rule(index=numbers, tokens=st.integers(0, 2), end=st.sampled_from([None, None, "stop", "length", "abort", "fail"]))
    def say(self, index: int, tokens: int, end: str | None) -> None:
        """A worker says something of a request that it has."""
        now = self.tick()
        held = [(worker, id) for worker, requests in sorted(self.workers.items()) for id in requests]
        if not held:
            return
        worker, id = held[index % len(held)]
        request = self.workers[worker][id]
        produced = min(tokens, request.sampling.max_tokens)
        left = request.sampling.max_tokens - produced
        if end is not None or not left:
            del self.workers[worker][id]
        else:
            sampling = SamplingParams(max_tokens=left)
            self.workers[worker][id] = EngineRequest(id, request.tokens, sampling)
        reason = end if end in ("stop", "length", "abort") else None if left or end == "fail" else "length"
        delta = Delta(pack([1] * produced), cached_tokens=0, finish_reason=reason)  # type: ignore[arg-type]
        failed = (Failed(id, "it failed"),) if end == "fail" else ()
        step = Step((), ((id, delta),), failed, Load(len(self.workers[worker]), 0, 0))
        self.carry_out(self.dispatcher.on_step(worker, step, now))

    @precondition(lambda self: any(self.workers.values()))
    @rule(
        index=numbers,
        kind=st.sampled_from([EngineError, UnreachableError, OverloadedError, ConfigurationError]),
        retry_after=st.sampled_from([None, 0.0, 0.05]),
    )
    def fail(self, index: int, kind: type[PrebleError], retry_after: float | None) -> None:
        """A request fails on its worker."""
        now = self.tick()
        held = [(worker, id) for worker, requests in sorted(self.workers.items()) for id in requests]
        if held:
            worker, id = held[index % len(held)]
            del self.workers[worker][id]
            error = kind("it failed", retry_after=retry_after)
            self.carry_out(self.dispatcher.on_failed(worker, id, error, now))

    @precondition(lambda self: self.requests)
    @rule(index=numbers, stop=st.booleans())
    def leave(self, index: int, stop: bool) -> None:
        """The reader of a request has what it wants, or goes."""
        request, now = self.requests[index % len(self.requests)], self.tick()
        if stop:
            self.carry_out(self.dispatcher.stop(request.samples[0], "end", now))
        self.carry_out(self.dispatcher.release(request, now))

    @rule(seconds=st.sampled_from([0.02, 0.3]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    @invariant()
    def the_books_are_right(self) -> None:
        self.dispatcher.check()

    @invariant()
    def each_sample_in_flight_is_on_one_worker_or_waits(self) -> None:
        running = [sample for request in self.requests for sample in request.samples if not sample.ended]
        assert len(running) == self.dispatcher.in_flight
        held = {id for requests in self.workers.values() for id in requests}
        there = [sample for sample in running if sample.worker_request_id in self.workers.get(sample.worker, ())]
        assert {id for id in held if id not in self.dispatcher.copies} == {sample.worker_request_id for sample in there}
        stats = self.dispatcher.stats(self.now)
        assert stats.waiting == len(running) - len(there)
        assert {each.worker for each in stats.workers} >= set(self.workers) | set(self.lost)
        for sample in running:
            assert sample.attempts - sample.moved <= MAX_ATTEMPTS
            assert sample in there or sample.waits_until >= self.now

    @invariant()
    def each_sample_ends_once(self) -> None:
        for request in self.requests:
            for sample in request.samples:
                assert self.ends[sample.id] == sample.ended
                assert (sample.error is None) != (sample.finish_reason is None) or not sample.ended
                assert len(sample.output) // TOKEN_BYTES <= sample.sampling.max_tokens
                late = isinstance(sample.error, DeadlineExceededError)
                assert not late or sample.ended_at >= (request.deadline or 0.0)

    def teardown(self) -> None:
        if hasattr(self, "dispatcher"):
            self.carry_out(self.dispatcher.close(EngineError("closed"), self.now))
            self.dispatcher.check()
            assert self.dispatcher.in_flight == len(self.dispatcher.copies) == 0
            self.each_sample_ends_once()
            counters = self.dispatcher.counters
            assert counters.submitted == counters.finished + counters.failed + counters.cancelled


TestFleet = Fleet.TestCase
TestFleet.settings = settings(stateful_step_count=30, deadline=None)
