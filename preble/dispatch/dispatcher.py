"""Between the scheduler and the workers: every sample in flight is in both books or in neither.

The dispatcher has no clock and does no I/O. It is told what happened and when, and answers with instructions; a
running cluster (`preble.cluster.driver`) and a simulation (`preble.simulate.run`) carry them out.
"""

from __future__ import annotations

import itertools
import math

from sortedcontainers import SortedKeyList

from preble.backends import Delta, EngineRequest, Load
from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.scheduler import Scheduler
from preble.core.snapshot import WorkerState
from preble.dispatch.copies_in_flight import CopiesInFlight
from preble.dispatch.instructions import AskAgain, Instruction, Send, Wake
from preble.dispatch.request import InFlightRequest, Sample
from preble.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    NoWorkersError,
    OverloadedError,
    PrebleError,
    WorkerLostError,
)
from preble.tokens import unpack
from preble.transport.schema import Abort, Failed, Step, Submit
from preble.tree import cache_salt
from preble.types import ClusterStats, Counters, FinishReason, SamplingParams, WorkerStats

MAX_ATTEMPTS = 3
"""Workers tried before the death of the last one is the caller's problem."""

REBALANCE_INTERVAL = 0.25
"""Seconds between looks for waiting requests that another worker would start much sooner."""

_COPY_SAMPLING = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)


class Dispatcher:
    """Keeps the books of samples, attempts, moves and copies, and tells the scheduler what happens to them.

    Every method takes `now`, seconds on a clock that does not go back, and those that may cause something to be done
    return the instructions for it. They must be carried out in order.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        max_in_flight: int | None = None,
        rebalance_interval: float = REBALANCE_INTERVAL,
    ) -> None:
        """Beyond `max_in_flight` samples, if given, requests are refused. `rebalance_interval` of 0 means never."""
        self.loads: dict[str, Load] = {}
        self.copies = CopiesInFlight(scheduler)
        self._scheduler = scheduler
        self._max_in_flight = math.inf if max_in_flight is None else max_in_flight
        self._interval = rebalance_interval or math.inf
        self._samples: dict[str, Sample] = {}
        self._on_workers: dict[int, Sample] = {}
        self._worker_request_ids = itertools.count(1)
        self._deadlines: SortedKeyList[InFlightRequest] = SortedKeyList(key=lambda request: request.deadline)
        self._counts = dict.fromkeys(Counters.__struct_fields__, 0)
        self._next_rebalance = math.inf
        self._asked_at = math.inf
        self._instructions: list[Instruction] = []

    @property
    def counters(self) -> Counters:
        """What was counted since the start."""
        return Counters(**self._counts)

    @property
    def in_flight(self) -> int:
        """How many samples are in flight."""
        return len(self._samples)

    def sample_of(self, worker_request_id: int) -> Sample | None:
        """The sample that has this number on its worker; None if it ended or moved, and for copies."""
        return self._on_workers.get(worker_request_id)

    def stats(self) -> ClusterStats:
        """Counters, what the scheduler believes, and what engines reported last."""
        snapshot = self._scheduler.snapshot()
        return ClusterStats(
            counters=self.counters,
            in_flight=len(self._samples),
            tree_nodes=snapshot.tree_nodes,
            tree_tokens=snapshot.tree_tokens,
            workers=tuple(self._worker_stats(state) for state in snapshot.workers),
        )

    def start(self, now: float) -> list[Instruction]:
        """Begin to look for what waits too long."""
        self._next_rebalance = now + self._interval
        self._ask_again()
        return self._answer()

    def submit(self, request: InFlightRequest, now: float) -> list[Instruction]:
        """Place all samples of a request. If that fails, none is in the books and nothing is to be done.

        Raises InvalidRequestError for an id in flight, OverloadedError, NoWorkersError, DeadlineExceededError.
        """
        self._require_new(request)
        self._require_room(request)
        if request.deadline is not None and request.deadline <= now:
            raise DeadlineExceededError("the deadline passed before the request was sent", request_id=request.id)
        try:
            for sample in request.samples:
                self._samples[sample.id] = sample
                self._counts["submitted"] += 1
                self._place(sample, now)
        except BaseException:
            for sample in request.samples:
                if sample.id in self._samples:
                    self._end(sample, now, reason="abort")
            self._instructions.clear()
            raise
        if request.deadline is not None:
            self._deadlines.add(request)
            self._ask_again()
        return self._answer()

    def release(self, request: InFlightRequest, now: float) -> list[Instruction]:
        """Its reader is gone: end and abort what still runs. Harmless if nothing does."""
        for sample in request.samples:
            if sample.id in self._samples:
                self._abort(sample)
                self._end(sample, now, reason="abort")
        return self._answer()

    def stop(self, sample: Sample, stop: str, now: float) -> list[Instruction]:
        """The text of a sample holds the stop string `stop`: it ends here."""
        if not sample.ended:
            self._abort(sample)
            self._end(sample, now, reason="stop")
        if sample.error is None:
            sample.finish_reason, sample.stop_reason = "stop", stop
        return self._answer()

    def close(self, error: PrebleError, now: float) -> list[Instruction]:
        """End all samples with `error`, and forget all copies."""
        for sample in list(self._samples.values()):
            self._end(sample, now, error=error)
        self.copies.stop(now)
        return self._answer()

    def on_step(self, worker: str, step: Step, now: float) -> list[Instruction]:
        """Take in what a worker said."""
        self.loads[worker] = step.load
        for evicted in step.evicted:
            self._scheduler.evicted(worker, evicted.tokens, evicted.keep, cache_salt=evicted.cache_salt, now=now)
        if step.timings:
            self._scheduler.observe(worker, step.timings, now=now)
        for id, delta in step.deltas:
            sample = self._on_workers.get(id)
            if sample is not None:
                self._take_in(sample, delta, now)
            elif id in self.copies:
                self.copies.take_in(id, delta, now)
        for failed in step.failed:
            self._fail(worker, failed.id, _error(failed), now)
        return self._answer()

    def on_failed(self, worker: str, worker_request_id: int, error: PrebleError, now: float) -> list[Instruction]:
        """A request could not be sent to its worker, or served by it: it ends with `error`."""
        self._fail(worker, worker_request_id, error, now)
        return self._answer()

    def on_lost(self, worker: str, error: WorkerLostError, now: float) -> list[Instruction]:
        """A worker died: forget it, and send its samples elsewhere with what they have generated so far.

        Raises ConfigurationError if it is not here.
        """
        orphans = self._scheduler.remove_worker(worker, now=now)
        self.copies.lost(worker, now)
        self.loads.pop(worker, None)
        for orphan in orphans:
            if (sample := self._samples.get(str(orphan))) is not None:  # else it was a copy
                self._retry(sample, error, now)
        return self._answer()

    def on_time(self, now: float) -> list[Instruction]:
        """The time that `AskAgain` named has come: end what is late, move what waits too long, copy hot prefixes."""
        due, self._asked_at = self._asked_at, math.inf
        if due < math.inf:
            now = max(now, due)  # timers may go off a little early
        while self._deadlines and self._deadlines[0].deadline <= now:
            self._expire(self._deadlines.pop(0), now)
        if self._next_rebalance <= now:
            self._next_rebalance = now + self._interval
            self._rebalance(now)
        self._ask_again()
        return self._answer()

    def check(self) -> None:
        """Raise AssertionError if the books of samples, worker request ids and scheduler disagree."""
        numbers = {sample.worker_request_id for sample in self._samples.values()}
        assert set(self._on_workers) == numbers, "worker request ids and samples differ"
        in_flight = len(self._samples) + len(self.copies)
        assert self._scheduler.snapshot().requests == in_flight, "scheduler and samples differ"
        assert not any(sample.ended for sample in self._samples.values()), "a sample that ended is in flight"
        late = {request.id for request in self._deadlines}
        assert late == {sample.request.id for sample in self._samples.values() if sample.request.deadline is not None}
        self._scheduler.check()

    def _ask_again(self) -> None:
        """Say when something is due next, if that is sooner than what was said last."""
        due = self._next_rebalance
        if self._deadlines:
            due = min(due, self._deadlines[0].deadline)
        if due < self._asked_at:
            self._asked_at = due
            self._instructions.append(AskAgain(due))

    def _answer(self) -> list[Instruction]:
        instructions, self._instructions = self._instructions, []
        return instructions

    def _require_new(self, request: InFlightRequest) -> None:
        if any(sample.id in self._samples for sample in request.samples):
            raise InvalidRequestError(f"{request.id!r} is in flight", field="request_id", request_id=request.id)

    def _require_room(self, request: InFlightRequest) -> None:
        if len(self._samples) + len(request.samples) > self._max_in_flight:
            raise OverloadedError(
                f"{len(self._samples)} samples in flight, at most {self._max_in_flight}", retry_after=0.1
            )

    def _worker_stats(self, state: WorkerState) -> WorkerStats:
        engine = self.loads.get(state.worker, Load(0, 0, 0))
        return WorkerStats(
            worker=state.worker,
            load=state.load,
            requests=state.requests,
            held_tokens=state.held_tokens,
            kv_tokens=state.kv_tokens,
            running=engine.running,
            waiting=engine.waiting,
            used_tokens=engine.used_tokens,
        )

    def _place(self, sample: Sample, now: float) -> None:
        """Let the scheduler choose, and send."""
        self._dispatch(sample, self._choose(sample, now), now)

    def _choose(self, sample: Sample, now: float) -> str:
        """Return the scheduler's choice of a worker. What was generated before becomes prompt."""
        options = sample.request.options
        sample.placement = self._scheduler.submit(
            sample.id,
            sample.tokens,
            max_tokens=sample.expected_tokens,
            session=options.session,
            priority=options.priority,
            namespace=options.served_by,
            tenant=options.shared_with,
            now=now,
        )
        sample.known_to_scheduler = True
        return sample.placement.worker

    def _dispatch(self, sample: Sample, worker: str, now: float) -> None:
        sample.dispatched(worker, next(self._worker_request_ids))
        self._on_workers[sample.worker_request_id] = sample
        options = sample.request.options
        request = EngineRequest(
            sample.worker_request_id,
            sample.tokens,
            sample.remaining(),
            priority=options.priority,
            cache_salt=cache_salt(options.served_by, options.shared_with),
            remaining=sample.request.remaining(now),
            lora=options.lora,
        )
        self._instructions.append(Send(worker, Submit(request)))

    def _take_in(self, sample: Sample, delta: Delta, now: float) -> None:
        if delta.admitted:
            # A prompt whose log-probabilities are asked for is computed whole, whatever is cached.
            cached = None if sample.sampling.prompt_logprobs is not None else delta.cached_tokens
            self._scheduler.started(sample.id, cached_tokens=cached, now=now)
        if delta.tokens and len(sample.output) == sample.offset:
            self._scheduler.first_token(sample.id, now=now)
        sample.append(delta, now)
        if delta.finish_reason == "abort":
            self._go_elsewhere(sample, now)
        elif delta.finish_reason is not None:
            self._end(sample, now, reason=delta.finish_reason)
        elif delta.tokens and sample.request.streaming:
            self._instructions.append(Wake(sample))

    def _fail(self, worker: str, worker_request_id: int, error: PrebleError, now: float) -> None:
        sample = self._on_workers.get(worker_request_id)
        if sample is not None:
            error.worker, error.request_id = worker, sample.request.id
            self._end(sample, now, error=error)
        elif worker_request_id in self.copies:
            self.copies.end(worker_request_id, now)

    def _end(
        self, sample: Sample, now: float, *, reason: FinishReason | None = None, error: PrebleError | None = None
    ) -> None:
        """Take a sample out of all books, once."""
        del self._samples[sample.id]
        self._on_workers.pop(sample.worker_request_id, None)
        self._leave_scheduler(sample, now)
        sample.end(now, reason=reason, error=error)
        if sample.request.deadline is not None and all(each.ended for each in sample.request.samples):
            self._deadlines.discard(sample.request)
        self._count(sample)
        self._instructions.append(Wake(sample))

    def _leave_scheduler(self, sample: Sample, now: float) -> None:
        if sample.known_to_scheduler:
            sample.known_to_scheduler = False
            self._scheduler.finish(sample.id, output=bytes(sample.output[sample.offset :]), now=now)

    def _count(self, sample: Sample) -> None:
        usage, counts = sample.usage, self._counts
        counts["failed" if sample.error else "cancelled" if sample.finish_reason == "abort" else "finished"] += 1
        counts["prompt_tokens"] += usage.prompt_tokens
        counts["cached_tokens"] += usage.cached_tokens
        counts["output_tokens"] += usage.output_tokens

    def _abort(self, sample: Sample) -> None:
        """Take a sample from its worker; what that still says of it is not believed."""
        self._on_workers.pop(sample.worker_request_id, None)
        self._instructions.append(Send(sample.worker, Abort((sample.worker_request_id,))))

    def _go_elsewhere(self, sample: Sample, now: float) -> None:
        """A worker aborted a sample of its own accord: it stops."""
        self._leave_scheduler(sample, now)
        self._retry(sample, WorkerLostError("the worker stopped", worker=sample.worker), now)

    def _retry(self, sample: Sample, error: WorkerLostError, now: float) -> None:
        self._on_workers.pop(sample.worker_request_id, None)
        if sample.max_tokens <= 0:
            self._end(sample, now, reason="length")  # which is all that the worker had still to say
            return
        if sample.attempts >= MAX_ATTEMPTS:
            self._end(sample, now, error=_lost(sample, error))
            return
        self._counts["retried"] += 1
        sample.retries += 1
        try:
            self._place(sample, now)
        except NoWorkersError:
            self._end(sample, now, error=_lost(sample, error))
        except Exception as refused:  # a policy may raise anything; the next sample must still be looked at
            self._end(sample, now, error=_typed(refused))

    def _expire(self, request: InFlightRequest, now: float) -> None:
        for sample in request.samples:
            if not sample.ended:
                self._abort(sample)
                error = DeadlineExceededError("the deadline passed", worker=sample.worker, request_id=request.id)
                self._end(sample, now, error=error)

    def _rebalance(self, now: float) -> None:
        for move in self._scheduler.rebalance(now):
            sample = self._samples[str(move.id)]
            if not sample.reconsidered:
                self._reconsider(sample, now)
        for copy in self._scheduler.copies(now):
            self._copy(copy, now)

    def _reconsider(self, sample: Sample, now: float) -> None:
        """Let the policy choose anew for a waiting sample, and take it there; once, so that none wanders.

        If its own worker is chosen again, it keeps its place in the queue there.
        """
        sample.reconsidered = True
        self._leave_scheduler(sample, now)
        try:
            worker = self._choose(sample, now)
        except Exception as error:  # a policy may raise anything
            self._abort(sample)
            self._end(sample, now, error=_typed(error))
            return
        if worker != sample.worker:
            sample.moved = True
            self._counts["moved"] += 1
            self._abort(sample)
            self._dispatch(sample, worker, now)

    def _copy(self, copy: Copy, now: float) -> None:
        """Let a worker compute a prefix for later."""
        id = next(self._worker_request_ids)
        self.copies.begin(copy, id, now)
        self._counts["copied"] += 1
        request = EngineRequest(id, copy.tokens, _COPY_SAMPLING, priority=COPY_PRIORITY)
        self._instructions.append(Send(copy.target, Submit(request)))


def _error(failed: Failed) -> PrebleError:
    if failed.field:
        return InvalidRequestError(failed.reason, field=failed.field)
    return EngineError(failed.reason)


def _typed(error: Exception) -> PrebleError:
    return error if isinstance(error, PrebleError) else ConfigurationError(f"policy: raised {error!r}")


def _lost(sample: Sample, error: WorkerLostError) -> WorkerLostError:
    tokens = unpack(bytes(sample.output))
    return WorkerLostError(
        str(error), worker=sample.worker, request_id=sample.request.id, token_ids=tokens, log=error.log
    )
