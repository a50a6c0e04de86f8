"""The asyncio shell around a `Batcher`: one task that takes its steps, and an iterator of deltas for each request."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from preble.backends import Delta, EngineRequest, Evicted, Load, StepTiming
from preble.backends.batching import Batcher, SampledToken, TokenSpan, step_timing
from preble.errors import EngineDeadError, EngineError, InvalidRequestError
from preble.tokens import pack
from preble.types import SamplingParams

Execute = Callable[[list[TokenSpan]], Awaitable[list[SampledToken]]]
"""Compute the spans of a step; return one sample for each span that samples, in order."""

FAILURES = 3
"""Steps that fail one after the other before the engine is tried with a prompt of its own."""

_TIMINGS_KEPT = 256
_TRIAL = EngineRequest(
    -1, pack([0]), SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True), priority=-(1 << 31)
)
_logger = logging.getLogger("preble.backends.stepping")


class _Unread:
    """The tokens of one request that its reader has not taken yet, merged into a single delta."""

    __slots__ = ("delta", "error", "ready")

    def __init__(self) -> None:
        self.delta: Delta | None = None
        self.error: EngineError | None = None
        self.ready: asyncio.Future[None] | None = None

    def put(self, delta: Delta) -> None:
        self.delta = delta if self.delta is None else _merge(self.delta, delta)
        self._wake()

    def fail(self, error: EngineError) -> None:
        self.error = error
        self._wake()

    async def get(self) -> Delta:
        while self.delta is None:
            if self.error is not None:
                raise self.error
            self.ready = asyncio.get_running_loop().create_future()
            await self.ready
        delta, self.delta = self.delta, None
        return delta

    def _wake(self) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_result(None)


def _merge(first: Delta, second: Delta) -> Delta:
    logprobs = (first.logprobs or ()) + (second.logprobs or ())
    return Delta(
        first.tokens + second.tokens,
        first.cached_tokens if second.cached_tokens is None else second.cached_tokens,
        second.finish_reason,
        second.stop_reason,
        logprobs or None,
        prompt_logprobs=first.prompt_logprobs or second.prompt_logprobs,
    )


class StepLoop:
    """Runs a batcher's steps while there is work, and has the methods of an `Engine` except `start`.

    `execute` computes a step, and `clock` returns the time in seconds. If a step raises, the requests that it computed
    fail with EngineError, and the others go on. After `FAILURES` steps that failed one after the other, one token of a
    prompt that nobody sent is computed. If that fails too, or `execute` raises EngineDeadError, the engine is dead: all
    open and later requests and `load` raise EngineDeadError, which ends the worker.
    """

    def __init__(self, batcher: Batcher, execute: Execute, clock: Callable[[], float]) -> None:
        self.batcher = batcher
        self._execute = execute
        self._clock = clock
        self._timings: deque[StepTiming] = deque(maxlen=_TIMINGS_KEPT)
        self._work = asyncio.Event()
        self._unread: dict[int, _Unread] = {}
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._dead: str | None = None
        self._closed = False

    def start(self) -> None:
        """Start stepping, in the running event loop."""
        self._task = asyncio.create_task(self._run(), name="preble-engine-steps")
        self._task.add_done_callback(self._ended)

    async def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Yield deltas until one has a `finish_reason`. A slow reader gets the tokens of several steps in one delta.

        Closing the iterator aborts the request. Raises InvalidRequestError if the request can never run, EngineError if
        its step fails, and EngineDeadError if the engine is dead.
        """
        self._require_alive()
        if self._closed:
            raise EngineError("the engine is closed")
        if request.id in self._unread:
            raise InvalidRequestError(f"{request.id} is in use", field="id")
        self.batcher.add(request, self._clock())
        unread = self._unread[request.id] = _Unread()
        self._work.set()
        finish = None
        try:
            while finish is None:
                delta = await unread.get()
                finish = delta.finish_reason
                yield delta
        finally:
            self._unread.pop(request.id, None)
            if finish is None:
                self.abort(request.id)

    def abort(self, id: int) -> None:
        """End a request: its iterator yields a last delta with finish reason "abort". Unknown ids are ignored."""
        self.batcher.abort(id)
        self._deliver()

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        return self.batcher.cache_events()

    def timings(self) -> list[StepTiming]:
        """Return and forget the steps since the last call, at most the last 256 of them."""
        timings = list(self._timings)
        self._timings.clear()
        return timings

    def load(self) -> Load:
        """Return the present load. Raises EngineDeadError if the engine is dead."""
        self._require_alive()
        return self.batcher.load()

    async def reset_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        self.batcher.reset_cache()

    async def close(self) -> None:
        """Abort everything and stop stepping. A step in progress is cancelled."""
        self._closed = True
        for request_id in list(self._unread):
            self.abort(request_id)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            began = self._clock()
            while (ended := await self._step(began)) is not None:
                began = ended
            self._work.clear()
            await self._work.wait()

    async def _step(self, began: float) -> float | None:
        """Take a step and return when it ended; None if there is nothing to do.

        The step counts as begun when the one before it ended, since what was done in between, such as delivering
        tokens, kept the engine from computing too.
        """
        spans = self.batcher.plan(self._clock())
        self._deliver()
        if not spans:
            return None
        try:
            sampled = await self._execute(spans)
            ended = self._clock()
            self.batcher.commit(spans, sampled, ended)
        except EngineDeadError:
            raise
        except Exception as error:  # whatever a step raises must reach those who wait for it
            await self._failed(spans, error)
            return self._clock()
        self._failures = 0
        self._timings.append(step_timing(spans, ended - began))
        self._deliver()
        # Requests and aborts must get a turn of the loop even if `execute` never waits.
        await asyncio.sleep(0)
        return ended

    async def _failed(self, spans: list[TokenSpan], error: Exception) -> None:
        """A step failed, and with it its requests. Raises EngineDeadError if no step succeeds any more."""
        _logger.error("a step failed", exc_info=error)
        self._deliver()
        self._failures += 1
        ended = self.batcher.drop(spans)
        if self._failures >= FAILURES:
            await self._try()
        for id in ended:
            self._fail(id, EngineError(f"a step failed: {_in_words(error)}"), error)
        await asyncio.sleep(0)

    async def _try(self) -> None:
        """Compute one token of a prompt that nobody sent, to see whether the engine is at fault or the requests are."""
        now = self._clock()
        self.batcher.add(_TRIAL, now)
        try:
            spans = [span for span in self.batcher.plan(now) if span.sequence.id == _TRIAL.id]
            if spans:  # else there was no room for it, and the next failure tries again
                self.batcher.commit(spans, await self._execute(spans), now)
                self._failures = 0
        except Exception as error:
            reason = f"{self._failures} steps failed one after the other, the last of them: {_in_words(error)}"
            raise EngineDeadError(reason) from error
        finally:
            self.batcher.abort(_TRIAL.id)

    def _require_alive(self) -> None:
        if self._dead is not None:
            raise EngineDeadError(self._dead)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task of the steps has ended. If nobody closed it, nothing can be served any more."""
        if self._closed:
            return
        error = asyncio.CancelledError("the steps were cancelled") if task.cancelled() else task.exception()
        self._dead = str(error) if isinstance(error, EngineDeadError) else _in_words(error)
        for id in self._unread:
            self._fail(id, EngineDeadError(self._dead), error)

    def _deliver(self) -> None:
        for request_id, delta in self.batcher.deltas():
            unread = self._unread.get(request_id)
            if unread is not None:
                unread.put(delta)

    def _fail(self, id: int, failure: EngineError, cause: BaseException | None) -> None:
        failure.__cause__ = cause
        if (unread := self._unread.get(id)) is not None:
            unread.fail(failure)


def _in_words(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"
