"""Whether a cluster may be used, and from where: it starts once, is closed once, and belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from preble.errors import ClosedError, NotStartedError, StateError, WrongLoopError

PATIENCE = 10.0
"""Seconds that another thread waits for the event loop to answer."""

_Result = TypeVar("_Result")


class State:
    """What has become of a cluster so far. `loop` is the event loop that it was started on."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ready = False
        self.closed = False

    def require_unclosed(self) -> None:
        """Raise ClosedError."""
        if self.closed:
            raise ClosedError("the cluster is closed")

    def require_ready(self) -> None:
        """Raise ClosedError or NotStartedError."""
        self.require_unclosed()
        if not self.ready:
            raise NotStartedError("the cluster is not started: use `async with`, or await start()")

    def require_loop(self) -> None:
        """Raise WrongLoopError."""
        if running_loop() is not self.loop:
            hint = "preble.SyncCluster may be called from any thread"
            raise WrongLoopError(f"the cluster belongs to another event loop; {hint}")

    def require_started(self) -> None:
        """Raise ClosedError, NotStartedError or WrongLoopError."""
        self.require_ready()
        self.require_loop()

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Return `function()`, called on the cluster's event loop, between two callbacks, if another thread asks.

        Raises StateError if something blocks that loop.
        """
        if self.loop is None or not self.loop.is_running() or running_loop() is self.loop:
            return function()
        answer: Future[_Result] = Future()
        self.loop.call_soon_threadsafe(_answer, answer, function)
        try:
            return answer.result(PATIENCE)
        except TimeoutError:
            raise StateError(f"the cluster's event loop is blocked: no answer within {PATIENCE:g} s") from None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of this thread, if one runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _answer(answer: Future[_Result], function: Callable[[], _Result]) -> None:
    try:
        answer.set_result(function())
    except BaseException as error:
        answer.set_exception(error)
