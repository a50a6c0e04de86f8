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

    Evictions of what was cached before that are not known.
    """

    def __init__(self, endpoint: str, *, replay: str | None, block_size: int) -> None:
        self._held = HeldBlocks(block_size)
        self._feed = EventFeed(endpoint, take=self._take, lost=self._held.forget, replay=replay)

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
            _logger.error("KV events are forgotten: %s", error)
            self._held.forget()
