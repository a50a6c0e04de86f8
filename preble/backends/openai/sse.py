"""Server-sent events from bytes that may be cut anywhere."""

from __future__ import annotations

from preble.errors import EngineError

MAX_EVENT = 64 << 20
"""Longest event, in bytes: vLLM repeats a prompt's ids in its first one."""

DONE = b"[DONE]"
"""The data of the event that ends a stream of the OpenAI API."""

_DATA = (b"data", b"error")  # older servers of llama.cpp write errors as a field of that name


class EventStream:
    """Collects the data of events. Comments, event names, ids and an unfinished last event are dropped."""

    def __init__(self, *, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take more bytes; return the data of the events that are now complete. Raises EngineError past the limit."""
        events: list[bytes] = []
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = bytes(self._rest + end) if self._rest else end
            self._rest.clear()
            self._take(line.removesuffix(b"\r"), events)
        self._rest += rest
        if len(self._rest) + self._size > self._limit:
            raise EngineError(f"an event of more than {self._limit} bytes")
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        name, colon, data = line.partition(b":")
        if colon and name in _DATA:
            data = data.removeprefix(b" ")
            self._data.append(data)
            self._size += len(data)
        elif not line and self._data:
            events.append(b"\n".join(self._data))
            self._data, self._size = [], 0
