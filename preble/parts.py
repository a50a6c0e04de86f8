"""The parts of a body on their way from one task to another, which may fall behind."""

from __future__ import annotations

import asyncio
from collections import deque

AHEAD = 64
"""Parts that wait to be read, before the writer waits too."""


class Parts:
    """Bytes in order, until `end`. Make it inside a running event loop."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._error: Exception | None = None
        self.ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def put(self, part: bytes) -> None:
        """Hand on the next bytes, whether there is room or not."""
        self._parts.append(part)
        self._news.set()

    async def room(self) -> None:
        """Wait while the reader is far behind."""
        while len(self._parts) >= AHEAD:
            self._room.clear()
            await self._room.wait()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; after what is there, the reader gets the error."""
        self.ended = True
        self._error = error
        self._news.set()

    async def take(self) -> bytes | None:
        """Wait for the next bytes; None is the end. Raises the error that it ended with."""
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self.ended:
                return None
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._parts.popleft()
