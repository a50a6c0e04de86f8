"""An event loop whose clock does not wait."""

from __future__ import annotations

import asyncio
import selectors


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that goes on to the time of its next callback, from 0, when there is nothing else to do.

    Sockets and threads work, but time does not pass for them: give it neither where runs are to be equal.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Impatient(self._pass))

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._now

    def _pass(self, seconds: float) -> None:
        self._now += seconds


class _Impatient(selectors.DefaultSelector):
    """Where another selector waits, it says how long that would take."""

    def __init__(self, waited) -> None:
        super().__init__()
        self._waited = waited

    def select(self, timeout: float | None = None):
        if timeout is None:  # no callback is due, ever: only sockets and other threads can bring one
            return super().select(None)
        found = super().select(0)
        if not found:
            self._waited(max(0.0, timeout))
        return found
