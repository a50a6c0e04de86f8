"""An event loop in a thread of its own, for callers who have none."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from preble.errors import ClosedError, NotStartedError, StateError

_Result = TypeVar("_Result")

_END: Any = object()
_PATIENCE = 5.0


class _Call(Generic[_Result]):
    """A coroutine that another thread waits for. It can be cancelled whether it has begun or not."""

    def __init__(self, coroutine: Coroutine[Any, Any, _Result]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    async def run(self) -> _Result:
        self._task = asyncio.current_task()
        if self._cancelled:
            raise asyncio.CancelledError
        return await self._coroutine

    def cancel(self) -> None:
        self._cancelled = True
        if self._task is None:
            self._coroutine.close()
        else:
            self._task.cancel()


class LoopThread:
    """Runs what other threads wait for. It starts once. It is a daemon, which keeps no interpreter from ending."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._ended = False
        self._process = os.getpid()

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._thread is not None and not self._ended

    def start(self) -> None:
        """Start the thread. Raises ClosedError if it was started or stopped before, OSError if there is no loop."""
        with self._lock:
            if self._thread is not None or self._ended:
                raise ClosedError("a cluster starts once")
            started: Future[None] = Future()
            self._thread = threading.Thread(target=self._serve, args=(started,), name="preble-cluster", daemon=True)
            self._thread.start()
            started.result()

    def stop(self) -> None:
        """Cancel what still runs and end the thread. Stopping twice is harmless."""
        with self._lock:  # what was handed to the loop before comes before this
            if self._thread is not None and not self._ended and self._process == os.getpid():
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._ended = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine on the loop and return its result. An interruption of the wait, as by Ctrl-C, cancels it.

        Raises NotStartedError, ClosedError, or StateError where waiting would never end.
        """
        call = _Call(coroutine)
        try:
            return self._hand_over(call).result()
        except CancelledError:
            raise ClosedError("the cluster was closed") from None
        except StateError:
            coroutine.close()  # if it was not begun
            raise
        except Exception:
            raise
        except BaseException:  # perhaps before it was known that the call was handed over
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call.cancel)
            raise

    def submit(self, coroutine: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        """Begin a coroutine on the loop and return its future, for who waits in another loop. Raises what `run` does.

        Cancelling the future cancels the coroutine.
        """
        try:
            return self._hand_over(_Call(coroutine))
        except StateError:
            coroutine.close()
            raise

    def draw(self, source: AsyncGenerator[_Result, None]) -> Generator[_Result, None, None]:
        """Yield what an asynchronous generator of the loop yields. Closing it closes that."""
        try:
            while (item := self.run(_next(source))) is not _END:
                yield item
        finally:
            self._finish(source)

    def _finish(self, source: AsyncGenerator[Any, None]) -> None:
        with suppress(RuntimeError):  # the loop has ended, or the generator does so already
            if threading.current_thread() is self._thread:  # which collects garbage
                asyncio.run_coroutine_threadsafe(_close(source), self._loop)
            else:
                self.run(_close(source))

    def _hand_over(self, call: _Call[_Result]) -> Future[_Result]:
        if self._process != os.getpid():
            raise StateError("the cluster belongs to the process that this one was forked from")
        if threading.current_thread() is self._thread:
            raise StateError("called by a callback of the cluster, on its own thread, which would wait for itself")
        with self._lock:
            if self._ended:
                raise ClosedError("the cluster is closed")
            if self._thread is None:
                raise NotStartedError("the cluster is not started: use `with`, or call start()")
            return asyncio.run_coroutine_threadsafe(call.run(), self._loop)

    def _serve(self, started: Future[None]) -> None:
        async def main() -> None:
            self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
            started.set_result(None)
            await self._stopping.wait()

        try:
            with asyncio.Runner() as runner:
                runner.run(main())
        except BaseException as error:
            if started.done():
                raise
            self._ended = True  # there is no loop to stop, as when the system has no more files to give
            started.set_exception(error)


async def _next(source: AsyncGenerator[_Result, None]) -> _Result:
    return await anext(source, _END)


async def _close(source: AsyncGenerator[Any, None]) -> None:
    await source.aclose()
