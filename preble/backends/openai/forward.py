"""A request that goes to a replica as it came, and its response on the way back, which is read along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec

from preble.backends import Delta
from preble.backends.openai.http import Http
from preble.backends.openai.sse import DONE, EventStream
from preble.errors import EngineError, PrebleError
from preble.parts import Parts
from preble.tokens import pack

_STILL_THERE = 5.0
"""Seconds after which a response that comes as a whole is known to be under way still."""
_WHOLE = 1 << 20
"""Bytes of a whole response that are kept to read its usage."""
_PLACE = pack([0])  # stands for a token of which only the text is known


class Head(msgspec.Struct, frozen=True):
    """The status of a response, and its headers."""

    status: int
    headers: Mapping[str, str]


class Forward:
    """A POST of `body` to `path`. It `streams` if its response is one of events.

    The replica's side calls `begin`, `put` and `end`, the reader's side `part` until it returns None; then, or with the
    first part, `head` is there. Once it has begun, no other replica can begin it again.
    """

    def __init__(self, path: str, body: bytes, headers: Mapping[str, str], *, streams: bool) -> None:
        self.path = path
        self.body = body
        self.headers = headers
        self.streams = streams
        self.head: Head | None = None
        self._parts = Parts()

    @property
    def begun(self) -> bool:
        """Whether something of a response was there."""
        return self.head is not None

    def begin(self, head: Head) -> None:
        """The first byte of a response is there."""
        self.head = head

    async def put(self, part: bytes) -> None:
        """Hand on the next bytes, and wait while the reader is far behind."""
        await self._parts.room()
        self._parts.put(part)

    def end(self) -> None:
        """The response is complete."""
        self._parts.end()

    def settle(self, serving: asyncio.Future[None]) -> None:
        """Nobody works on it any more: what is not complete has failed."""
        if not serving.cancelled() and not self._parts.ended:
            error = serving.exception()
            broken = EngineError("the replica broke off in the middle of its answer")
            self._parts.end(error if isinstance(error, PrebleError) else broken)

    async def part(self) -> bytes | None:
        """Wait for the next bytes; None is the end. Raises PrebleError if none could serve it, or one broke off."""
        return await self._parts.take()


async def deltas(http: Http, forward: Forward) -> AsyncGenerator[Delta, None]:
    """Let a replica serve it, and yield what that is to the scheduler: a token for each event, at the end the usage.

    A replica that is too busy, cannot be reached or fails before the first byte raises what `Http` does, and another
    one may be tried; other errors of a replica are its answer. After the first byte a break is raised too, and whoever
    tries again gets an abort.
    """
    if forward.begun:
        yield Delta(b"", finish_reason="abort")
        return
    found: asyncio.Queue[Delta] = asyncio.Queue()
    serving = asyncio.ensure_future(_serve(http, forward, found))
    serving.add_done_callback(lambda _: found.put_nowait(_END))
    try:
        while (delta := await _next(found, forward)) is not _END:
            yield delta
            if delta.finish_reason is not None:
                forward.end()  # the reader learns of it after the scheduler
        await serving
    finally:
        serving.cancel()


_END = Delta(b"", finish_reason="abort")


async def _next(found: asyncio.Queue[Delta], forward: Forward) -> Delta:
    try:
        async with asyncio.timeout(None if forward.streams else _STILL_THERE):
            return await found.get()
    except TimeoutError:
        return Delta(b"")


async def _serve(http: Http, forward: Forward, found: asyncio.Queue[Delta]) -> None:
    along = Along(streams=forward.streams)
    with http.key_hidden():
        await _exchange(http, forward, found, along)
    found.put_nowait(along.last())


async def _exchange(http: Http, forward: Forward, found: asyncio.Queue[Delta], along: Along) -> None:
    async with http.exchange(forward.path, forward.body, forward.headers, streams=forward.streams) as response:
        head = Head(response.status, dict(response.headers))
        async for part in response.content.iter_any():
            if not forward.begun:
                forward.begin(head)
            count = along.read(part)
            if count and head.status < 400:  # what is refused was not computed
                found.put_nowait(Delta(_PLACE * count))
            await forward.put(part)
        if not forward.begun:
            forward.begin(head)


class Along:
    """Reads a response on its way: how many events came, and the usage, in the words of any of the protocols."""

    def __init__(self, *, streams: bool) -> None:
        self._events = EventStream() if streams else None
        self._whole = bytearray()
        self._count = 0
        self._usage: Mapping[str, Any] = {}

    def read(self, part: bytes) -> int:
        """Take the next bytes, and return how many events they complete: of a whole answer one, as it begins."""
        if self._events is None:
            begins = not self._whole
            self._whole += part[: _WHOLE - len(self._whole)]
            return int(begins)
        events = [event for event in self._events.feed(part) if event != DONE]
        for event in events:
            if b'"usage"' in event:
                self._look(event)
        self._count += len(events)
        return len(events)

    def last(self) -> Delta:
        """Return the last delta: the counts as the replica told them, as far as it did."""
        if self._events is None:
            self._look(bytes(self._whole))
        usage = self._usage
        details = _first(usage, ("prompt_tokens_details", "input_tokens_details")) or {}
        cached = _number(details, ("cached_tokens",)) or _number(usage, ("cache_read_input_tokens",))
        prompt = _number(usage, ("prompt_tokens", "input_tokens"))
        output = _number(usage, ("completion_tokens", "output_tokens"))
        return Delta(
            b"",
            cached_tokens=min(cached or 0, prompt or 0) if prompt else None,
            finish_reason="stop",
            output_tokens=self._count if output is None else output,
            prompt_tokens=prompt,
        )

    def _look(self, document: bytes) -> None:
        try:
            found = msgspec.json.decode(document, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        for holder in (found, found.get("response"), found.get("message")):
            usage = holder.get("usage") if isinstance(holder, dict) else None
            if isinstance(usage, dict):
                self._usage = {**self._usage, **usage}


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any] | None:
    return next((fields[name] for name in names if isinstance(fields.get(name), dict)), None)


def _number(fields: Mapping[str, Any], names: Sequence[str]) -> int | None:
    found = (fields.get(name) for name in names)
    return next((number for number in found if isinstance(number, int) and 0 <= number < 1 << 31), None)
