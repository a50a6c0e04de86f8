"""Responses that a client may name later: kept in memory, as many as fit into its bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from preble.serve.responses.items import Message
from preble.serve.responses.output import Event


class Stored(msgspec.Struct, frozen=True):
    """A response as JSON, and as JSON the messages of its whole conversation, its own output included.

    Each has the whole conversation, so that forgetting one does not break those that continue it.
    """

    response: bytes
    messages: bytes

    @property
    def size(self) -> int:
        """Return the bytes that it holds."""
        return len(self.response) + len(self.messages)


class Store:
    """Stored responses by id. Beyond `most` of them or `most_bytes`, those that were used longest ago are forgotten."""

    def __init__(self, most: int = 1000, most_bytes: int = 64 << 20) -> None:
        """Begin empty."""
        self._most = most
        self._most_bytes = most_bytes
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def bytes(self) -> int:
        """Return how many bytes all of them hold."""
        return self._bytes

    def put(self, response: Event, messages: Sequence[Message]) -> None:
        """Keep a response under its `id`. One that is larger than the bounds is forgotten at once."""
        self.delete(response["id"])
        stored = Stored(msgspec.json.encode(response), msgspec.json.encode(messages))
        self._stored[response["id"]] = stored
        self._bytes += stored.size
        while len(self._stored) > self._most or self._bytes > self._most_bytes:
            self.delete(next(iter(self._stored)))

    def get(self, id: str) -> Stored | None:
        """Return a response, which counts as used, or None."""
        if id in self._stored:
            self._stored.move_to_end(id)
        return self._stored.get(id)

    def delete(self, id: str) -> bool:
        """Forget a response, and return whether it was there."""
        stored = self._stored.pop(id, None)
        if stored is not None:
            self._bytes -= stored.size
        return stored is not None

    def check(self) -> None:
        """Raise AssertionError if the bytes are miscounted or a bound does not hold."""
        assert self._bytes == sum(stored.size for stored in self._stored.values())
        assert len(self._stored) <= self._most
        assert self._bytes <= self._most_bytes
