"""A replica's evictions, from the KV events that it publishes."""

from __future__ import annotations

import logging

from preble.backends import Evicted
from preble.backends.block_events import HeldBlocks, decode
from preble.backends.event_feed import EventFeed
from preble.errors import EngineError

_logger = logging.getLogger("preble.openai")


class KvEvents:
    """Subscribes at `endpoint`; missing events are requested again from `replay`, if there is such an address.

    `block_size` is what the server tells of its blocks; what its events say counts. Evictions of what was cached before
    are not known. What cannot be used is warned of, once for each reason.
    """

    def __init__(self, endpoint: str, *, replay: str | None, block_size: int) -> None:
        self._endpoint = endpoint
        self._told = block_size
        self._warned: set[str] = set()
        self._held = HeldBlocks(block_size)
        self._feed = EventFeed(endpoint, take=self._take, lost=self._lose, replay=replay)

    def evicted(self) -> list[Evicted]:
        """Read the events that have arrived, without waiting. Return and forget the evictions, in order."""
        self._feed.drain()
        return self._held.evicted()

    def forget(self) -> None:
        """Treat the cache as empty after the events that have arrived so far."""
        self._feed.drain()
        self._held.forget()

    def close(self) -> None:
        """Free the sockets."""
        self._feed.close()

    def _take(self, body: bytes) -> None:
        try:
            self._held.apply(decode(body))
        except EngineError as error:
            self._warn("not understood, so that what is cached is forgotten", str(error))
            self._held.forget()
        size = self._held.block_size
        if size != self._told:
            self._warn("of other blocks", f"they have {size} tokens; give block_size={size}")
        if self._held.misfits:
            self._warn("left out", f"their blocks do not have {size} tokens")

    def _lose(self) -> None:
        self._warn("lost, so that what is cached is forgotten", "more came than could be kept")
        self._held.forget()

    def _warn(self, what: str, why: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _logger.warning("KV events of %s are %s: %s", self._endpoint, what, why)
