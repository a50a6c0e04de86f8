"""A replica's KV events, where it publishes them: what it evicted."""

from __future__ import annotations

import logging

from preble.backends import Evicted
from preble.backends.block_events import HeldBlocks, decode
from preble.backends.event_feed import EventFeed
from preble.errors import EngineError

_logger = logging.getLogger("preble.openai")


class KvEvents:
    """Subscribes at `endpoint`; `replay` is where lost events can be had again, if anywhere.

    What was cached before is not known, and its eviction is not told.
    """

    def __init__(self, endpoint: str, *, replay: str | None, block_size: int) -> None:
        self._held = HeldBlocks(block_size)
        self._feed = EventFeed(endpoint, take=self._take, lost=self._held.forget, replay=replay)

    def evicted(self) -> list[Evicted]:
        """Read what has come, without waiting; return and forget the evictions since the last call, in order."""
        self._feed.drain()
        return self._held.evicted()

    def forget(self) -> None:
        """Take it that nothing is held any more, after what has come so far."""
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
