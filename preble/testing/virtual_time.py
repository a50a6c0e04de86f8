"""An event loop whose clock does not wait."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour passes in a moment: when nothing is to be done, it goes on to its next callback.

    >>> with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
    ...     runner.run(asyncio.sleep(3600.0))

    Its clock starts at 0 seconds, so that runs with the same seeds are equal. Sockets and threads work, but the clock
    does not wait for them: a timeout passes at once while a thread computes.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self._advance))

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._now

    def _advance(self, seconds: float) -> None:
        self._now += seconds


class _Selector(selectors.DefaultSelector):
    """Where another selector waits for `timeout` seconds, it lets `advance` take them and returns."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # no callback is due: only a socket or another thread can bring one
            return super().select(None)
        found = super().select(0)
        if not found:
            self._advance(max(0.0, timeout))
        return found
