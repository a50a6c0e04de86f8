"""Where new requests come in, and where they wait or are refused while a cluster drains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from preble.errors import ClosedError, OverloadedError


class Gate:
    """Shut while somebody drains the cluster, from then on until `reopen` if they asked for it, and after `close`."""

    def __init__(self) -> None:
        self._drains = 0
        self._shut = False
        self._closed = False
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def draining(self) -> bool:
        """Whether new requests have to wait."""
        return not self._closed and (bool(self._drains) or self._shut)

    def check(self) -> None:
        """Raise OverloadedError if new requests have to wait, ClosedError if that is in vain."""
        if self._closed:
            raise ClosedError("the cluster is closed")
        if self._drains:
            raise OverloadedError("the cluster is draining", retry_after=0.1)
        if self._shut:
            raise OverloadedError("the cluster is drained, until `reopen` is called", retry_after=0.1)

    @contextmanager
    def drain(self, *, reopen: bool) -> Iterator[None]:
        """Keep it shut meanwhile, and afterwards unless `reopen`; if what goes on meanwhile fails, it opens."""
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

    def close(self) -> None:
        """Let nothing in any more: whoever waits goes on, to hear of it."""
        self._closed = True
        self._tell()

    async def opened(self) -> None:
        """Wait until nobody has to wait."""
        await self._opened.wait()

    def _tell(self) -> None:
        if not self.draining:
            self._opened.set()
