"""One HTTP exchange: a body within bounds, an answer whatever goes wrong, and no work for a client that went away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from preble.errors import InvalidRequestError, PrebleError
from preble.serve import errors, sse
from preble.serve.errors import HttpError, Refusal, failure

_logger = logging.getLogger("preble.serve")
_AS_THEY_ARE: Mapping[str, str] = {}
_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """A whole answer: `body` is JSON if it is not bytes."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = {}
    media_type: str = "application/json"


class Stream(msgspec.Struct, frozen=True):
    """An answer of server-sent events. The status line goes out with the first event, so until then it may be an error.

    Each item is the bytes of one or more events. `last` follows them, also after an event that tells of an error.
    """

    events: AsyncGenerator[bytes, None]
    last: bytes = b""


class Relayed(msgspec.Struct, frozen=True):
    """Another server's answer: its bytes as they come, `first` ahead of the other `parts`.

    One that `streams` is made of events. Where these have names, `error_event` is that of one that says what broke.
    """

    status: int
    headers: Mapping[str, str]
    first: bytes
    parts: AsyncGenerator[bytes, None]
    streams: bool
    error_event: str | None = None


Handler: TypeAlias = Callable[[Request, bytes], Awaitable[Answer | Stream | Relayed]]


class Endpoint:
    """An ASGI application that answers with a handler."""

    def __init__(
        self,
        handler: Handler,
        *,
        max_body: int,
        names: Mapping[str, str] = _AS_THEY_ARE,
        refusal: Refusal = errors.error_body,
    ) -> None:
        """Answer with what `handler` returns. Bodies are at most `max_body` bytes.

        `names` says what fields that the cluster names are called in the body; `refusal` makes the body of a failure.
        """
        self._names = names
        self._handler = handler
        self._max_body = max_body
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body: bytes | None = None
        try:
            body = await read_body(scope, receive, self._max_body)
        except HttpError as error:
            await self._refuse(error, send)
        if body is not None:
            await _unless_gone(self._answer(Request(scope), body, send), receive)

    async def _answer(self, request: Request, body: bytes, send: Send) -> None:
        try:
            answer = await self._handler(request, body)
            if isinstance(answer, Stream):
                await self._stream(answer, send)
            elif isinstance(answer, Relayed):
                await self._relay(answer, send)
            else:
                await send_whole(answer, send)
        except (PrebleError, HttpError) as error:
            await self._refuse(error, send)

    async def _stream(self, answer: Stream, send: Send) -> None:
        async with contextlib.aclosing(answer.events) as events:
            first = await anext(events, b"")
            await send(_start(200, {"cache-control": "no-cache"}, "text/event-stream; charset=utf-8"))
            await send(_part(first))
            try:
                async for item in events:
                    await send(_part(item))
            except PrebleError as error:
                await send(_part(sse.event(self._refusal(failure(self._renamed(error)), error.request_id))))
            await send({"type": "http.response.body", "body": answer.last, "more_body": False})

    async def _relay(self, answer: Relayed, send: Send) -> None:
        async with contextlib.aclosing(answer.parts) as parts:
            await send(_start(answer.status, answer.headers))
            await send(_part(answer.first))
            try:
                async for item in parts:
                    await send(_part(item))
            except PrebleError as error:
                if not answer.streams:
                    raise ConnectionError("the server broke off in the middle of its answer") from None
                await send(_part(_broken(self._refusal(failure(error), error.request_id), answer.error_event)))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _refuse(self, error: PrebleError | HttpError, send: Send) -> None:
        told = failure(self._renamed(error))
        if told.status >= 500:
            _logger.warning("answered %d: %s", told.status, told.message)
        request_id = error.request_id if isinstance(error, PrebleError) else None
        await send_whole(Answer(self._refusal(told, request_id), told.status, errors.headers(told)), send)

    def _renamed(self, error: PrebleError | HttpError) -> PrebleError | HttpError:
        return errors.renamed(error, self._names) if isinstance(error, InvalidRequestError) else error


def _broken(told: Mapping[str, Any], name: str | None) -> bytes:
    """Return the event of an error, on a line of its own wherever the stream broke off, and what ends the stream."""
    return b"\n\n" + sse.event(told, name) + (sse.DONE if name is None else b"")


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """Return the body. Raises HttpError 413 if it is longer than `most` bytes, and 400 if the client went away."""
    length = dict(scope["headers"]).get(b"content-length", b"0")
    parts, size = [], 0
    if length.isdigit() and int(length) > most:
        raise _too_long(most)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HttpError(400, "the body ended early", code="incomplete_body")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_long(most)
        if not message.get("more_body", False):
            return b"".join(parts)


async def send_whole(answer: Answer, send: Send) -> None:
    """Send an answer that is complete."""
    body = answer.body if isinstance(answer.body, bytes) else _encode(answer.body)
    await send(_start(answer.status, {**answer.headers, "content-length": str(len(body))}, answer.media_type))
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _unless_gone(work: Awaitable[None], receive: Receive) -> None:
    """Await `work`, and cancel it if the client goes away before it is done."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.wait((working, watching))
    if not working.cancelled():
        working.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, headers: Mapping[str, str], media_type: str | None = None) -> Message:
    pairs = [] if media_type is None else [(b"content-type", media_type.encode())]
    pairs += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _too_long(most: int) -> HttpError:
    return HttpError(413, f"the body is longer than {most} bytes", code="body_too_long")
