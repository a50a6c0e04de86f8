"""The dispatcher on an event loop: its clock, its timer, its messages to workers, and those who wait for its news."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from preble.cluster.reader import Reader
from preble.core.scheduler import Scheduler
from preble.dispatch.dispatcher import REBALANCE_INTERVAL, Dispatcher
from preble.dispatch.instructions import AskAgain, Instruction, Send, Tell, Wake
from preble.dispatch.request import InFlightRequest, Sample
from preble.errors import EngineError, InvalidRequestError, PrebleError, WorkerLostError
from preble.transport.schema import Step, Submit, ToWorker
from preble.types import ClusterStats, WorkerEvent

OnEvent: TypeAlias = Callable[[WorkerEvent], object]
"""Is told what happens to workers."""

_logger = logging.getLogger("preble.cluster")


class Driver:
    """Tells the dispatcher what happens and when, and carries out its instructions. Make calls on one event loop."""

    def __init__(self, dispatcher: Dispatcher, scheduler: Scheduler, on_event: OnEvent | None = None) -> None:
        """`on_event` is called with all that happens to workers."""
        self._scheduler = scheduler
        self._dispatcher = dispatcher
        self._on_event = on_event
        self._readers: dict[str, Reader] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._send: Callable[[str, ToWorker], None]

    def start(
        self, loop: asyncio.AbstractEventLoop, send: Callable[[str, ToWorker], None], forward: Any = None
    ) -> None:
        """Begin, on this loop. `send(worker, message)` queues a message for a worker, or raises a PrebleError.

        So does `forward(worker, id, exchange)` for a request that goes to a replica as it came.
        """
        self._loop, self._send, self._forward = loop, send, forward
        self._carry_out(self._dispatcher.start(loop.time()))

    def close(self, error: PrebleError) -> None:
        """End all samples with `error`, and take no more."""
        self._carry_out(self._dispatcher.close(error, self._loop.time()))
        if self._timer is not None:
            self._timer.cancel()

    def stats(self) -> ClusterStats:
        """Counters, what the scheduler believes, and what engines reported last."""
        return self._dispatcher.stats(self._loop.time())

    def check(self) -> None:
        """Raise AssertionError if the books of samples, worker request ids and scheduler disagree."""
        self._dispatcher.check()

    def submit(self, request: InFlightRequest) -> Reader:
        """Place and send a request. Whoever gets its reader must `release` the request in the end.

        Raises InvalidRequestError if its id is in use, OverloadedError, NoWorkersError, DeadlineExceededError.
        """
        if self.knows(request.id):
            raise InvalidRequestError(f"{request.id!r} is in flight", field="request_id", request_id=request.id)
        instructions = self._dispatcher.submit(request, self._loop.time())
        reader = self._readers[request.id] = Reader(request)
        self._carry_out(instructions)
        return reader

    def knows(self, id: str) -> bool:
        """Whether a request of this id was submitted and is not released yet."""
        return id in self._readers

    def release(self, request: InFlightRequest) -> None:
        """The reader is gone: end and abort what still runs."""
        self._readers.pop(request.id, None)
        self._carry_out(self._dispatcher.release(request, self._loop.time()))

    def stop(self, sample: Sample, stop: str) -> None:
        """The text of a sample holds the stop string `stop`: it ends here."""
        self._carry_out(self._dispatcher.stop(sample, stop, self._loop.time()))

    def drain(self, worker: str) -> None:
        """Send a worker nothing more. Raises ConfigurationError if it is not here."""
        self._scheduler.drain_worker(worker, now=self._loop.time())

    async def idle(self, worker: str | None = None) -> None:
        """Wait until nothing is in flight, or nothing on `worker`."""
        while self._scheduler.requests_on(worker) if worker else self._dispatcher.in_flight:
            await self._news()

    def full(self, samples: int) -> bool:
        """Whether so many samples more are too many now, though not for ever."""
        return self._dispatcher.full(samples)

    async def room(self, samples: int) -> None:
        """Wait until so many samples more are not too many."""
        while self.full(samples):
            await self._news()

    def on_step(self, worker: str, step: Step) -> None:
        """Take in what a worker said."""
        self._carry_out(self._dispatcher.on_step(worker, step, self._loop.time()))

    def on_failed(self, worker: str, worker_request_id: int, error: PrebleError) -> None:
        """A worker could not serve a request: it is tried elsewhere, unless the request is at fault."""
        self._carry_out(self._dispatcher.on_failed(worker, worker_request_id, error, self._loop.time()))

    def on_added(self, worker: str) -> None:
        """The scheduler has a worker, a new one or one that was lost."""
        self._carry_out(self._dispatcher.on_added(worker, self._loop.time()))

    def on_lost(self, worker: str, error: WorkerLostError, *, returns: bool = False, removed: bool = False) -> None:
        """A worker is gone: its samples go elsewhere. It `returns` perhaps, or was `removed` on purpose.

        Raises ConfigurationError if it is not here.
        """
        now = self._loop.time()
        self._carry_out(self._dispatcher.on_lost(worker, error, now, returns=returns, removed=removed))

    def expect(self, worker: str, reason: str) -> None:
        """A worker is not there yet, for `reason`, and may still come."""
        self._dispatcher.expect(worker, reason, self._loop.time())

    def forget(self, worker: str) -> None:
        """A lost worker was removed: it is not awaited any more."""
        self._dispatcher.forget(worker)

    def _carry_out(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Wake(sample):
                    if (reader := self._readers.get(sample.request.id)) is not None:
                        reader.wake(sample)
                case Send(worker, message, forward):
                    self._deliver(worker, message, forward)
                case AskAgain(at):
                    self._ask_at(at)
                case Tell(event):
                    self._tell(event)
        self._tell_idle()

    def _deliver(self, worker: str, message: ToWorker, forward: object) -> None:
        try:
            if forward is not None and isinstance(message, Submit):
                self._forward(worker, message.request.id, forward)
            else:
                self._send(worker, message)
        except WorkerLostError:
            pass  # the pool reports the loss by `on_lost`, which sends its samples elsewhere
        except PrebleError as error:
            self._undelivered(worker, message, error)
        except Exception as error:  # of a pool of the caller's own: what else there is to do must be done
            _logger.exception("%s: a message could not be sent", worker)
            self._undelivered(worker, message, EngineError(f"it could not be sent: {type(error).__name__}: {error}"))

    def _undelivered(self, worker: str, message: ToWorker, error: PrebleError) -> None:
        if isinstance(message, Submit):  # a request that could not be aborted is not listened to any more
            self.on_failed(worker, message.request.id, error)

    def _tell(self, event: WorkerEvent) -> None:
        if event.kind in ("opened", "closed"):  # the pools say so themselves if a worker is lost or back
            what = "gets no new requests for a while" if event.kind == "opened" else "gets requests again"
            _logger.warning("%s %s: %s", event.worker, what, event.reason)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:  # the caller's: it must not keep requests from being sent
                _logger.exception("on_event failed for %s", event)

    def _ask_at(self, at: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        now, self._timer = self._loop.time(), None
        try:
            instructions = self._dispatcher.on_time(now)
        except Exception:  # of a policy: it must not end deadlines and moves for good
            self._ask_at(now + REBALANCE_INTERVAL)
            raise
        self._carry_out(instructions)

    async def _news(self) -> None:
        future = self._loop.create_future()
        self._idle.append(future)
        await future

    def _tell_idle(self) -> None:
        """Something may have left a worker: let those look who wait for it to be idle."""
        for future in self._idle:
            if not future.done():
                future.set_result(None)
        self._idle.clear()
