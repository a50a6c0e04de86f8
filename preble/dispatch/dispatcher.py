"""Between the scheduler and the workers: every sample in flight is in both books or in neither."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable

import msgspec

from preble.backends import Delta, EngineRequest, Load
from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.scheduler import Scheduler
from preble.core.snapshot import WorkerState
from preble.dispatch.copying import Copying
from preble.dispatch.request import Flight, Sample
from preble.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    NoWorkersError,
    OverloadedError,
    PrebleError,
    WorkerLostError,
)
from preble.tokens import TOKEN_BYTES, unpack
from preble.transport.schema import Abort, Failed, Step, Submit, ToWorker
from preble.tree import cache_salt
from preble.types import ClusterStats, Counters, FinishReason, RequestOptions, SamplingParams, WorkerStats

MAX_ATTEMPTS = 3
"""Workers tried before the death of the last one is the caller's problem."""

REBALANCE_INTERVAL = 0.25
"""Seconds between looks for waiting requests that another worker would start much sooner."""

_ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)


class Dispatcher:
    """Submits samples, takes in what workers say of them, and tells the scheduler about both.

    `send(worker, message)` queues a message; it is set by whoever owns the workers. Make calls on one event loop.
    """

    send: Callable[[str, ToWorker], None]

    def __init__(self, scheduler: Scheduler, max_in_flight: int) -> None:
        self.loads: dict[str, Load] = {}
        self._scheduler = scheduler
        self._max_in_flight = max_in_flight
        self._samples: dict[str, Sample] = {}
        self._flights: dict[str, Flight] = {}
        self._by_wire: dict[int, Sample] = {}
        self._wires = itertools.count(1)
        self._copying = Copying(scheduler)
        self._counts = dict.fromkeys(Counters.__struct_fields__, 0)
        self._idle: list[asyncio.Future[None]] = []
        self._tick: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, on this loop."""
        self._loop = loop
        self._tick = loop.call_later(REBALANCE_INTERVAL, self._rebalance)

    def close(self, error: PrebleError) -> None:
        """End all samples with `error`, and take no more."""
        if self._tick is not None:
            self._tick.cancel()
        for sample in list(self._samples.values()):
            self._end(sample, error=error)
        self._copying.stop(self._loop.time())
        self._tell_idle()

    @property
    def counters(self) -> Counters:
        """What was counted since the start."""
        return Counters(**self._counts)

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

    def submit(
        self,
        flight: Flight,
        tokens: bytes,
        sampling: SamplingParams,
        options: RequestOptions,
        deadline: float | None,
    ) -> None:
        """Place and send all samples of a request. On an error some may be out: `release` the flight.

        Raises InvalidRequestError if its id is in flight, OverloadedError, NoWorkersError, DeadlineExceededError.
        """
        now = self._loop.time()
        if self.knows(flight.id):
            raise InvalidRequestError(f"{flight.id!r} is in flight", field="request_id", request_id=flight.id)
        if len(self._samples) + sampling.n > self._max_in_flight:
            raise OverloadedError(
                f"{len(self._samples)} samples in flight, at most {self._max_in_flight}", retry_after=0.1
            )
        if deadline is not None:
            if deadline <= now:
                raise DeadlineExceededError("the deadline passed before the request was sent", request_id=flight.id)
            flight.timer = self._loop.call_at(deadline, self._expire, flight)
        self._flights[flight.id] = flight
        for index in range(sampling.n):
            sample = Sample(flight, index, tokens, _single(sampling, index), options, now)
            flight.samples.append(sample)
            self._samples[sample.id] = sample
            self._counts["submitted"] += 1
            self._place(sample)

    def knows(self, id: str) -> bool:
        """Whether a request of this id was submitted and is not released yet."""
        return id in self._flights

    def release(self, flight: Flight) -> None:
        """The reader is gone: end and abort what still runs. Harmless if nothing does."""
        if self._flights.get(flight.id) is flight:
            del self._flights[flight.id]
        if flight.timer is not None:
            flight.timer.cancel()
        for sample in flight.samples:
            if not sample.ended:
                self._abort(sample)
                self._end(sample, reason="abort")

    def stop(self, sample: Sample, stop: str) -> None:
        """The text of a sample holds the stop string `stop`: it ends here."""
        if not sample.ended:
            self._abort(sample)
            self._end(sample, reason="stop")
        sample.finish_reason, sample.stop_reason = "stop", stop

    def drain(self, worker: str) -> None:
        """Send a worker nothing more. Raises ConfigurationError if it is not here."""
        self._scheduler.drain_worker(worker, now=self._loop.time())

    async def idle(self, worker: str | None = None) -> None:
        """Wait until nothing is in flight, or nothing on `worker`."""
        while self._scheduler.requests_on(worker) if worker else self._samples:
            future = self._loop.create_future()
            self._idle.append(future)
            await future

    def on_step(self, worker: str, step: Step) -> None:
        """Take in what a worker said."""
        now = self._loop.time()
        self.loads[worker] = step.load
        for evicted in step.evicted:
            self._scheduler.evicted(worker, evicted.tokens, evicted.keep, cache_salt=evicted.cache_salt, now=now)
        if step.timings:
            self._scheduler.observe(worker, step.timings, now=now)
        for wire, delta in step.deltas:
            sample = self._by_wire.get(wire)
            if sample is not None:
                self._take_in(sample, delta, now)
            elif wire in self._copying:
                self._copying.take_in(wire, delta, now)
                self._tell_idle()
        for failed in step.failed:
            self.on_failed(worker, failed.id, _error(failed))

    def on_failed(self, worker: str, wire: int, error: PrebleError) -> None:
        """A worker could not serve a request: it ends with `error`."""
        sample = self._by_wire.get(wire)
        if sample is not None:
            error.worker, error.request_id = worker, sample.flight.id
            self._end(sample, error=error)
        elif wire in self._copying:
            self._copying.end(wire, self._loop.time())
            self._tell_idle()

    def on_lost(self, worker: str, error: WorkerLostError) -> None:
        """A worker died: forget it, and send its samples elsewhere with what they have generated so far.

        Raises ConfigurationError if it is not here.
        """
        now = self._loop.time()
        orphans = self._scheduler.remove_worker(worker, now=now)
        self._copying.lost(worker, now)
        self.loads.pop(worker, None)
        for orphan in orphans:
            if (sample := self._samples.get(str(orphan))) is not None:  # else it was a copy
                self._retry(sample, error)
        self._tell_idle()

    def check(self) -> None:
        """Raise AssertionError if the books of samples, wires and scheduler disagree."""
        assert set(self._by_wire) == {s.wire for s in self._samples.values()}, "wires and samples differ"
        in_flight = len(self._samples) + len(self._copying)
        assert self._scheduler.snapshot().requests == in_flight, "scheduler and samples differ"
        self._scheduler.check()

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

    def _place(self, sample: Sample) -> None:
        """Let the scheduler choose, and send."""
        self._dispatch(sample, self._choose(sample))

    def _choose(self, sample: Sample) -> str:
        """Return the scheduler's choice of a worker. What was generated before becomes prompt."""
        options = sample.options
        return self._scheduler.submit(
            sample.id,
            sample.prompt + bytes(sample.output),
            max_tokens=_remaining(sample).max_tokens,
            session=options.session,
            priority=options.priority,
            namespace=options.served_by,
            tenant=options.shared_with,
            now=self._loop.time(),
        ).worker

    def _dispatch(self, sample: Sample, worker: str) -> None:
        sample.dispatched(worker, next(self._wires))
        self._by_wire[sample.wire] = sample
        # A worker that is gone is noticed by its exit, which sends the sample elsewhere with the others.
        with contextlib.suppress(WorkerLostError):
            prompt, sampling, options = sample.prompt + bytes(sample.output), _remaining(sample), sample.options
            salt = cache_salt(options.served_by, options.shared_with)
            remaining = sample.flight.remaining(self._loop.time())
            request = EngineRequest(sample.wire, prompt, sampling, options.priority, salt, remaining, options.lora)
            self.send(sample.worker, Submit(request))

    def _take_in(self, sample: Sample, delta: Delta, now: float) -> None:
        if delta.admitted and not sample.counted:
            if delta.cached_tokens is not None:
                sample.count(delta.cached_tokens)
            self._scheduler.started(sample.id, cached_tokens=delta.cached_tokens, now=now)
        if delta.tokens and not sample.computed:
            sample.mark_computed(now)
            self._scheduler.first_token(sample.id, now=now)
        sample.append(delta)
        if delta.finish_reason == "abort":
            self._go_elsewhere(sample, now)
        elif delta.finish_reason is not None:
            self._end(sample, reason=delta.finish_reason)
        elif delta.tokens and sample.flight.streaming:
            sample.flight.wake(sample)

    def _end(self, sample: Sample, *, reason: FinishReason | None = None, error: PrebleError | None = None) -> None:
        """Take a sample out of all books, once."""
        now = self._loop.time()
        del self._samples[sample.id]
        self._by_wire.pop(sample.wire, None)
        with contextlib.suppress(KeyError):  # never placed: the scheduler refused it
            self._scheduler.finish(sample.id, output=bytes(sample.output[sample.offset :]), now=now)
        sample.end(now, reason=reason, error=error)
        self._count(sample)
        self._tell_idle()

    def _tell_idle(self) -> None:
        """Something left a worker: let those look who wait for it to be idle."""
        for future in self._idle:
            if not future.done():
                future.set_result(None)
        self._idle.clear()

    def _count(self, sample: Sample) -> None:
        usage, counts = sample.usage, self._counts
        counts["failed" if sample.error else "cancelled" if sample.finish_reason == "abort" else "finished"] += 1
        counts["prompt_tokens"] += usage.prompt_tokens
        counts["cached_tokens"] += usage.cached_tokens
        counts["output_tokens"] += usage.output_tokens

    def _abort(self, sample: Sample) -> None:
        self._by_wire.pop(sample.wire, None)
        with contextlib.suppress(PrebleError):  # what it says of a request that it could not be told of is ignored
            self.send(sample.worker, Abort((sample.wire,)))

    def _go_elsewhere(self, sample: Sample, now: float) -> None:
        """A worker aborted a sample of its own accord: it stops."""
        self._scheduler.finish(sample.id, output=bytes(sample.output[sample.offset :]), now=now)
        self._retry(sample, WorkerLostError("the worker stopped", worker=sample.worker))
        self._tell_idle()

    def _retry(self, sample: Sample, error: WorkerLostError) -> None:
        self._by_wire.pop(sample.wire, None)
        if len(sample.output) // TOKEN_BYTES >= sample.sampling.max_tokens:
            self._end(sample, reason="length")  # which is all that the worker had still to say
            return
        if sample.attempts >= MAX_ATTEMPTS:
            self._end(sample, error=_lost(sample, str(error)))
            return
        self._counts["retried"] += 1
        try:
            self._place(sample)
        except NoWorkersError:
            self._end(sample, error=_lost(sample, str(error)))
        except PrebleError as refused:
            self._end(sample, error=refused)

    def _expire(self, flight: Flight) -> None:
        for sample in flight.samples:
            if not sample.ended:
                self._abort(sample)
                error = DeadlineExceededError("the deadline passed", worker=sample.worker, request_id=flight.id)
                self._end(sample, error=error)

    def _rebalance(self) -> None:
        self._tick = self._loop.call_later(REBALANCE_INTERVAL, self._rebalance)
        for move in self._scheduler.rebalance(self._loop.time()):
            sample = self._samples[str(move.id)]
            if not sample.moved:
                self._move(sample)
        for copy in self._scheduler.copies(self._loop.time()):
            self._copy(copy)

    def _move(self, sample: Sample) -> None:
        """Let the policy choose anew for a waiting sample, and take it there; once, so that none wanders.

        If its own worker is chosen again, it keeps its place in the queue there.
        """
        sample.moved = True
        self._scheduler.finish(sample.id, now=self._loop.time())
        try:
            worker = self._choose(sample)
            if worker != sample.worker:
                self._counts["moved"] += 1
                self._abort(sample)
                self._dispatch(sample, worker)
        except PrebleError as error:
            self._abort(sample)
            self._end(sample, error=error)
        self._tell_idle()

    def _copy(self, copy: Copy) -> None:
        """Let a worker compute a prefix for later, if it keeps up with its requests."""
        wire = next(self._wires)
        self._copying.begin(copy, wire, self._loop.time())
        try:
            self.send(copy.target, Submit(EngineRequest(wire, copy.tokens, _ONE_TOKEN, COPY_PRIORITY)))
        except PrebleError:
            self._copying.end(wire, self._loop.time())
            self._tell_idle()
        else:
            self._counts["copied"] += 1


def _error(failed: Failed) -> PrebleError:
    if failed.field:
        return InvalidRequestError(failed.reason, field=failed.field)
    return EngineError(failed.reason)


def _single(sampling: SamplingParams, index: int) -> SamplingParams:
    """What sample `index` of a request asks of an engine."""
    if sampling.n == 1:
        return sampling
    seed = None if sampling.seed is None else sampling.seed + index
    return msgspec.structs.replace(sampling, n=1, seed=seed)


def _remaining(sample: Sample) -> SamplingParams:
    done = len(sample.output) // TOKEN_BYTES
    if not done:
        return sample.sampling
    sampling = sample.sampling
    return msgspec.structs.replace(
        sampling, max_tokens=sampling.max_tokens - done, min_tokens=max(0, sampling.min_tokens - done)
    )


def _lost(sample: Sample, reason: str) -> WorkerLostError:
    tokens = unpack(bytes(sample.output))
    return WorkerLostError(reason, worker=sample.worker, request_id=sample.flight.id, token_ids=tokens)
