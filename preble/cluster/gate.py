"""Where new requests come in, and where they wait or are refused while a cluster drains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from preble.errors import OverloadedError


class Gate:
    """Closed while somebody drains the cluster, and from then on if they asked for it, until `reopen`."""

    def __init__(self) -> None:
        self._drains = 0
        self._shut = False
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def closed(self) -> bool:
        """Whether no new requests are let in."""
        return bool(self._drains) or self._shut

    def check(self) -> None:
        """Raise OverloadedError if it is closed."""
        if self._drains:
            raise OverloadedError("the cluster is draining", retry_after=0.1)
        if self._shut:
            raise OverloadedError("the cluster is drained, until `reopen` is called", retry_after=0.1)

    @contextmanager
    def draining(self, *, reopen: bool) -> Iterator[None]:
        """Keep it closed meanwhile, and afterwards unless `reopen`; if what goes on meanwhile fails, it opens."""
        self._drains += 1
        self._opened.clear()
        try:
            yield
            self._shut = self._shut or not reopen
        finally:
            self._drains -= 1
            self._tell()

    def reopen(self) -> None:
        """Let requests in again, once nobody drains any more."""
        self._shut = False
        self._tell()

    def release(self) -> None:
        """The cluster is closed: whoever waits goes on, to hear of it."""
        self._opened.set()

    async def opened(self) -> None:
        """Wait until it is open."""
        await self._opened.wait()

    def _tell(self) -> None:
        if not self.closed:
            self._opened.set()
