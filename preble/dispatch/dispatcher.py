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
from preble.dispatch.breaker import Failure
from preble.dispatch.copies_in_flight import CopiesInFlight
from preble.dispatch.health import Health
from preble.dispatch.instructions import AskAgain, Instruction, Send, Tell, Wake
from preble.dispatch.records import Records
from preble.dispatch.request import InFlightRequest, Sample
from preble.dispatch.silence import Silence
from preble.dispatch.waiting import Waiting
from preble.errors import (
    ConfigurationError,
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    NamespaceNotServedError,
    NoWorkersError,
    OverloadedError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerTimeoutError,
)
from preble.tokens import TOKEN_BYTES, unpack
from preble.transport.schema import Abort, Failed, Step, Submit
from preble.tree import cache_salt
from preble.types import ClusterStats, Counters, FinishReason, SamplingParams, WorkerEvent

MAX_ATTEMPTS = 3
"""How often a sample is tried, before the failure of the last attempt is the caller's problem."""

RETRY_PAUSE = 0.1
"""Seconds before a sample is tried again where it failed, if there is no other worker; doubled each time, to 100 s."""

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
        worker_wait: float = 0.0,
        idle_timeout: float = math.inf,
    ) -> None:
        """Beyond `max_in_flight` samples, if given, requests are refused. `rebalance_interval` of 0 means never.

        A sample that no worker can take waits for one for `worker_wait` seconds. One that its worker says nothing of
        for `idle_timeout` seconds, or ten times the predicted time to its first token, is tried elsewhere.
        """
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
        self._health = Health(scheduler)
        self._records = Records()
        self._waiting = Waiting()
        self._silence = Silence(idle_timeout)
        self._worker_wait = worker_wait
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

    def full(self, samples: int) -> bool:
        """Whether so many samples more are too many now, though not for ever."""
        return samples <= self._max_in_flight < len(self._samples) + samples

    def sample_of(self, worker_request_id: int) -> Sample | None:
        """The sample that has this number on its worker; None if it ended or moved, and for copies."""
        return self._on_workers.get(worker_request_id)

    def stats(self, now: float) -> ClusterStats:
        """Counters, what the scheduler believes, and what engines reported last."""
        snapshot = self._scheduler.snapshot()
        return ClusterStats(
            counters=self.counters,
            in_flight=len(self._samples),
            waiting=len(self._waiting),
            tree_nodes=snapshot.tree_nodes,
            tree_tokens=snapshot.tree_tokens,
            workers=self._records.stats(snapshot.workers, self.loads, self._health, now),
        )

    def start(self, now: float) -> list[Instruction]:
        """Begin to look for what waits too long."""
        self._next_rebalance = now + self._interval
        self._silence.start(now)
        return self._answer(now)

    def on_added(self, worker: str, now: float) -> list[Instruction]:
        """The scheduler has a worker, a new one or one that was lost: what waits may go there."""
        if self._records.added(worker, now):
            self._instructions.append(Tell(WorkerEvent("back", worker, "it serves again")))
        self._health.freed = True
        return self._answer(now)

    def expect(self, worker: str, reason: str, now: float) -> None:
        """A worker that the scheduler does not have is not there yet, for `reason`, and may still come."""
        self._records.lost(worker, reason, now, returns=True)

    def forget(self, worker: str) -> None:
        """A worker was removed on purpose: nobody asks for it any more."""
        self._records.forget(worker)

    def submit(self, request: InFlightRequest, now: float) -> list[Instruction]:
        """Place all samples of a request. If that fails, none is in the books and nothing is to be done.

        Raises InvalidRequestError for an id in flight, OverloadedError, NoWorkersError, DeadlineExceededError.
        """
        self._require_new(request)
        try:
            self._require_room(request)
            if request.deadline is not None and request.deadline <= now:
                raise DeadlineExceededError("the deadline passed before the request was sent", request_id=request.id)
            for sample in request.samples:
                self._samples[sample.id] = sample
                self._place(sample, now)
        except BaseException:
            self._take_back(request, now)
            raise
        self._counts["submitted"] += len(request.samples)
        if request.deadline is not None:
            self._deadlines.add(request)
        return self._answer(now)

    def release(self, request: InFlightRequest, now: float) -> list[Instruction]:
        """Its reader is gone: end and abort what still runs. Harmless if nothing does."""
        for sample in request.samples:
            if sample.id in self._samples:
                self._abort(sample, now)
                self._end(sample, now, reason="abort")
        return self._answer(now)

    def stop(self, sample: Sample, stop: str, now: float) -> list[Instruction]:
        """The text of a sample holds the stop string `stop`: it ends here."""
        if not sample.ended:
            self._abort(sample, now)
            self._end(sample, now, reason="stop")
        if sample.error is None:
            sample.finish_reason, sample.stop_reason = "stop", stop
        return self._answer(now)

    def close(self, error: PrebleError, now: float) -> list[Instruction]:
        """End all samples with `error`, and forget all copies."""
        for sample in list(self._samples.values()):
            self._end(sample, now, error=error)
        self.copies.stop(now)
        return self._answer(now)

    def on_step(self, worker: str, step: Step, now: float) -> list[Instruction]:
        """Take in what a worker said."""
        self.loads[worker] = step.load
        for evicted in step.evicted:
            self._scheduler.evicted(worker, evicted.tokens, evicted.keep, cache_salt=evicted.cache_salt, now=now)
        if step.timings:
            self._scheduler.observe(worker, step.timings, now=now)
        if step.deltas:
            self._silence.spoke(worker, now)
        for id, delta in step.deltas:
            sample = self._on_workers.get(id)
            if sample is not None:
                self._take_in(sample, delta, now)
            elif id in self.copies:
                self.copies.take_in(id, delta, now)
        for failed in step.failed:
            self._fail(worker, failed.id, _error(failed), now)
        return self._answer(now)

    def on_failed(self, worker: str, worker_request_id: int, error: PrebleError, now: float) -> list[Instruction]:
        """A request could not be sent to its worker, or served by it.

        It ends with `error` if that is an InvalidRequestError, else it is tried elsewhere.
        """
        self._fail(worker, worker_request_id, error, now)
        return self._answer(now)

    def on_lost(
        self, worker: str, error: WorkerLostError, now: float, *, returns: bool = False, removed: bool = False
    ) -> list[Instruction]:
        """A worker is gone: forget what it held, and send its samples elsewhere with what they have generated so far.

        It may come back if it `returns`, and was not lost but `removed` on purpose otherwise. Raises ConfigurationError
        if it is not here.
        """
        orphans = self._scheduler.remove_worker(worker, now=now)
        self.copies.lost(worker, now)
        self.loads.pop(worker, None)
        self._health.forget(worker)
        self._silence.forget(worker)
        if removed:
            self.forget(worker)
        else:
            self._records.lost(worker, str(error), now, returns=returns)
            self._instructions.append(Tell(WorkerEvent("lost", worker, str(error))))
        for orphan in orphans:
            if (sample := self._samples.get(str(orphan))) is not None:  # else it was a copy
                if removed:
                    sample.attempts -= 1  # it was no failure
                else:
                    self._records.of(worker, now).failed(error)
                    sample.failed_on[worker] = True
                self._retry(sample, error, now)
        return self._answer(now)

    def on_time(self, now: float) -> list[Instruction]:
        """The time that `AskAgain` named has come: end what is late, move what waits too long, copy hot prefixes."""
        due, self._asked_at = self._asked_at, math.inf
        if due < math.inf:
            now = max(now, due)  # timers may go off a little early
        while self._deadlines and self._deadlines[0].deadline <= now:
            self._expire(self._deadlines.pop(0), now)
        self._health.on_time(now)
        for sample in self._waiting.over(now):
            self._try_again(sample, now)
        if self._silence.is_due(now, late=max(0.0, now - due)):
            self._leave_silent_workers(now)
        if self._next_rebalance <= now:
            self._next_rebalance = now + self._interval
            self._rebalance(now)
        return self._answer(now)

    def check(self) -> None:
        """Raise AssertionError if the books of samples, worker request ids and scheduler disagree."""
        on_workers = [sample for sample in self._samples.values() if sample not in self._waiting]
        numbers = {sample.worker_request_id for sample in on_workers}
        assert set(self._on_workers) == numbers, "worker request ids and samples differ"
        assert all(self._samples.get(sample.id) is sample for sample in self._waiting), "a sample waits that ended"
        in_flight = len(on_workers) + len(self.copies)
        assert self._scheduler.snapshot().requests == in_flight, "scheduler and samples differ"
        assert not any(sample.ended for sample in self._samples.values()), "a sample that ended is in flight"
        late = {request.id for request in self._deadlines}
        assert late == {sample.request.id for sample in self._samples.values() if sample.request.deadline is not None}
        self._scheduler.check()

    def _ask_again(self) -> None:
        """Say when something is due next, if that is sooner than what was said last."""
        due = min(self._next_rebalance, self._silence.due, self._health.due, self._waiting.due)
        if self._deadlines:
            due = min(due, self._deadlines[0].deadline)
        if due < self._asked_at:
            self._asked_at = due
            self._instructions.append(AskAgain(due))

    def _answer(self, now: float) -> list[Instruction]:
        """Return what is to be done, after what waits was given the workers that take requests again."""
        health = self._health
        if health.freed:
            health.freed = False
            self._admit_waiting(now)
        for event in health.events:
            self._instructions.append(Tell(event))
        health.events.clear()
        self._ask_again()
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

    def _take_back(self, request: InFlightRequest, now: float) -> None:
        """One of its samples was refused: it is as if the request had not come."""
        for sample in request.samples:
            if sample.id in self._samples:
                self._health.left(sample.worker, sample.id, now)
                self._remove(sample, now)
        self._counts["refused"] += len(request.samples)
        self._instructions.clear()

    def _place(self, sample: Sample, now: float) -> None:
        """Let the scheduler choose, and send. If no worker can take it now, it waits, or it is refused."""
        try:
            worker = self._choose(sample, now)
        except (NoWorkersError, ContextLengthError) as error:
            if isinstance(error, (NamespaceNotServedError, ContextLengthError)) and not self._records.awaited:
                raise  # nobody who may come back could take it
            self._wait(sample, error, now)
        else:
            self._waiting.discard(sample)
            self._dispatch(sample, worker, now)

    def _wait(self, sample: Sample, error: PrebleError, now: float) -> None:
        """Let a sample wait for a worker. Raises what it failed with last, or `error`, if that is in vain."""
        error = sample.last_error or self._health.overload(now) or error
        if sample.waits_until is None:
            sample.waits_until = now + self._worker_wait
        if now >= sample.waits_until or not self._may_come(sample):
            raise error
        until = sample.waits_until
        forgiven = [worker for worker, again in sample.failed_on.items() if again]
        if forgiven:
            until = min(until, now + RETRY_PAUSE * 2 ** min(sample.retries, _DOUBLINGS))
        for worker in forgiven:
            del sample.failed_on[worker]
        self._leave_scheduler(sample, now)  # an orphan of a lost worker is known there still
        self._waiting.add(sample, until)

    def _may_come(self, sample: Sample) -> bool:
        """Whether there is, or may be, a worker for it: one on which it has not failed for good."""
        hopeless = {worker for worker, again in sample.failed_on.items() if not again}
        return not hopeless or not hopeless.issuperset(self._records.awaited.union(self._scheduler.workers))

    def _admit_waiting(self, now: float) -> None:
        """A worker takes requests again: give it those that wait, until nobody takes any more."""
        for sample in self._waiting:
            self._try_again(sample, now)
            if sample in self._waiting and self._anybody_may_serve(sample):
                return

    def _anybody_may_serve(self, sample: Sample) -> bool:
        """Whether a sample can go to any worker, so that if none takes it, none takes anything."""
        fits = sample.prompt_tokens + sample.sampling.token_limit <= self._scheduler.fleet.shortest_context
        return fits and not sample.failed_on and not sample.request.options.served_by

    def _try_again(self, sample: Sample, now: float) -> None:
        """Place a sample again; it ends if it has waited for too long, or its policy fails."""
        try:
            self._place(sample, now)
        except Exception as error:  # a policy may raise anything; the next sample must still be looked at
            self._give_up(sample, error, now)

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
            excluded=sample.failed_on,
            now=now,
        )
        sample.known_to_scheduler = True
        return sample.placement.worker

    def _dispatch(self, sample: Sample, worker: str, now: float) -> None:
        sample.dispatched(worker, next(self._worker_request_ids), now)
        self._records.of(worker, now)
        self._health.sent(worker, sample.id, now)
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
            begun=0 if sample.sampling.structure is None else len(sample.output) // TOKEN_BYTES,
        )
        self._instructions.append(Send(worker, Submit(request), sample.request.forward))

    def _take_in(self, sample: Sample, delta: Delta, now: float) -> None:
        if delta.admitted:
            # A prompt whose log-probabilities are asked for is computed whole, whatever is cached.
            cached = None if sample.sampling.prompt_logprobs is not None else delta.cached_tokens
            self._scheduler.started(sample.id, cached_tokens=cached, now=now)
        sample.heard = now
        if delta.tokens and not sample.answered:
            sample.waits_until = None
            self._scheduler.first_token(sample.id, now=now)
            self._health.began(sample.worker, sample.id, now)
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
            if isinstance(error, InvalidRequestError):
                self._end(sample, now, error=error)
            else:
                self._fail_over(sample, error, now)
        elif worker_request_id in self.copies:
            self.copies.end(worker_request_id, now)

    def _end(
        self, sample: Sample, now: float, *, reason: FinishReason | None = None, error: PrebleError | None = None
    ) -> None:
        """Take a sample out of all books, once."""
        self._remove(sample, now)
        sample.end(now, reason=reason, error=error)
        if sample.request.deadline is not None and all(each.ended for each in sample.request.samples):
            self._deadlines.discard(sample.request)
        self._count(sample, now)
        self._instructions.append(Wake(sample))

    def _remove(self, sample: Sample, now: float) -> None:
        del self._samples[sample.id]
        self._waiting.discard(sample)
        self._on_workers.pop(sample.worker_request_id, None)
        self._leave_scheduler(sample, now)

    def _leave_scheduler(self, sample: Sample, now: float) -> None:
        if sample.known_to_scheduler:
            sample.known_to_scheduler = False
            self._scheduler.finish(sample.id, output=bytes(sample.output[sample.offset :]), now=now)

    def _count(self, sample: Sample, now: float) -> None:
        usage, counts = sample.usage, self._counts
        if sample.finish_reason in ("stop", "length"):
            self._records.ended(sample, now)
            self._health.succeeded(sample.worker, sample.id, now)
        else:
            self._health.left(sample.worker, sample.id, now)
        counts["failed" if sample.error else "cancelled" if sample.finish_reason == "abort" else "finished"] += 1
        counts["prompt_tokens"] += usage.prompt_tokens
        counts["cached_tokens"] += usage.cached_tokens
        counts["output_tokens"] += usage.output_tokens

    def _abort(self, sample: Sample, now: float) -> None:
        """Take a sample from its worker, if it is on one; what that still says of it is not believed."""
        if self._withdraw(sample):
            self._health.left(sample.worker, sample.id, now)

    def _withdraw(self, sample: Sample) -> bool:
        """Have its worker abort a sample. Return whether it was on one."""
        was_there = self._on_workers.pop(sample.worker_request_id, None) is not None
        if was_there:
            self._instructions.append(Send(sample.worker, Abort((sample.worker_request_id,))))
        return was_there

    def _go_elsewhere(self, sample: Sample, now: float) -> None:
        """A worker aborted a sample of its own accord: it stops."""
        self._leave_scheduler(sample, now)
        self._retry(sample, WorkerLostError("the worker stopped", worker=sample.worker), now)

    def _fail_over(self, sample: Sample, error: PrebleError, now: float) -> None:
        """An attempt failed, and the request is not known to be at fault: its worker is left out, and others tried."""
        worker = sample.worker
        failure = Failure(sample.id, now - sample.sent_at, sample.answered)
        self._leave_scheduler(sample, now)
        self._records.of(worker, now).failed(error)
        sample.failed_on[worker] = isinstance(error, _MAY_PASS)
        if isinstance(error, OverloadedError):
            sample.attempts -= not failure.late  # a refusal is no attempt
            self._health.full(worker, error.retry_after, str(error), now)
            if sample.waits_until is None:
                sample.waits_until = now + self._worker_wait
        else:
            sample.suspects.append(worker)
            self._health.failed(worker, failure, str(error), now)
        self._retry(sample, error, now)

    def _retry(self, sample: Sample, error: PrebleError, now: float) -> None:
        """Place a sample again, after `error`, with what it has generated so far as part of its prompt."""
        self._on_workers.pop(sample.worker_request_id, None)
        self._health.left(sample.worker, sample.id, now)
        sample.last_error = error
        if sample.max_tokens <= 0:
            self._end(sample, now, reason="length")  # which is all that the worker had still to say
        elif sample.attempts >= MAX_ATTEMPTS:
            self._give_up(sample, error, now)
        else:
            self._counts["retried"] += 1
            sample.retries += 1
            self._try_again(sample, now)

    def _give_up(self, sample: Sample, error: Exception, now: float) -> None:
        """End a sample with an error. If it failed wherever it was tried, no worker is to blame."""
        if len(set(sample.suspects)) > 1 and isinstance(error, (EngineError, ConfigurationError)):
            for worker in sample.suspects:
                self._health.withdraw(worker, sample.id, now)
        if isinstance(error, NoWorkersError) and sample.last_error is not None:
            error = sample.last_error
        self._end(sample, now, error=_lost(sample, error) if isinstance(error, WorkerLostError) else _typed(error))

    def _leave_silent_workers(self, now: float) -> None:
        """Try samples elsewhere of which their workers have said nothing for too long.

        The first time a sample stays where it is if no other worker could take it. After that it stays if its worker
        speaks of others, since then it may wait in a long queue, and ends if nobody is left to try.
        """
        for sample in list(self._on_workers.values()):
            trouble = self._silence.of(sample, now)
            if trouble and (trouble == "hung" if sample.silent else self._has_elsewhere(sample)):
                self._leave_silent(sample, now, hung=trouble == "hung")

    def _leave_silent(self, sample: Sample, now: float, *, hung: bool) -> None:
        """Try a sample elsewhere; its worker is at fault if it is `hung`."""
        sample.silent = True
        error = WorkerTimeoutError(
            f"no token within {now - sample.heard:.1f} s", worker=sample.worker, request_id=sample.request.id
        )
        self._withdraw(sample)
        if hung:
            self._fail_over(sample, error, now)
        else:
            self._leave_scheduler(sample, now)
            sample.failed_on[sample.worker] = True
            sample.attempts -= 1  # it was no failure
            self._retry(sample, error, now)

    def _has_elsewhere(self, sample: Sample) -> bool:
        """Whether another worker could take a sample now."""
        excluded = {*sample.failed_on, sample.worker}
        namespace = sample.request.options.served_by
        length = len(sample.tokens) // TOKEN_BYTES
        try:
            self._scheduler.fleet.serving(namespace, length, sample.expected_tokens, excluded)
        except PrebleError:
            return False
        return True

    def _expire(self, request: InFlightRequest, now: float) -> None:
        for sample in request.samples:
            if not sample.ended:
                self._abort(sample, now)
                error = DeadlineExceededError(
                    "the deadline passed", worker=sample.worker or None, request_id=request.id
                )
                self._end(sample, now, error=error)

    def _rebalance(self, now: float) -> None:
        for move in self._scheduler.rebalance(now):
            sample = self._samples[str(move.id)]
            if not sample.reconsidered and self._has_elsewhere(sample):
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
            self._abort(sample, now)
            self._end(sample, now, error=_typed(error))
            return
        if worker != sample.worker:
            sample.moved = True
            self._counts["moved"] += 1
            self._abort(sample, now)
            self._dispatch(sample, worker, now)

    def _copy(self, copy: Copy, now: float) -> None:
        """Let a worker compute a prefix for later."""
        id = next(self._worker_request_ids)
        self.copies.begin(copy, id, now)
        self._counts["copied"] += 1
        request = EngineRequest(id, copy.tokens, _COPY_SAMPLING, priority=COPY_PRIORITY)
        self._instructions.append(Send(copy.target, Submit(request)))


_DOUBLINGS = 10  # a pause is not doubled more often
_MAY_PASS = (OverloadedError, UnreachableError, WorkerLostError)


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
