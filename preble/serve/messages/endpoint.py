"""The endpoints of the Messages protocol: a message is answered, or its tokens are counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.routing import Route

from preble.errors import InvalidRequestError, PrebleError
from preble.serve import bodies, chat, sse
from preble.serve.answer import Piece, answer
from preble.serve.endpoint import Answer, Endpoint, Stream
from preble.serve.errors import failure
from preble.serve.messages.body import OWN, MessageBody, check
from preble.serve.messages.chat import SPELLED, chat_fields
from preble.serve.messages.errors import error_body
from preble.serve.messages.events import Progress, message_events
from preble.serve.served import Served
from preble.serve.sessions import session
from preble.serve.spelling import PASSED, read_chat, split
from preble.serve.streamed import Event
from preble.serve.usage import placed


def routes(served: Served, max_body: int) -> list[Route]:
    """Return the paths of the protocol."""
    options: dict[str, Any] = {"max_body": max_body, "names": {"prompt": "messages"}, "refusal": error_body}
    return [
        Route("/v1/messages", Endpoint(partial(create, served), **options), methods=["POST"]),
        Route("/v1/messages/count_tokens", Endpoint(partial(count_tokens, served), **options), methods=["POST"]),
    ]


async def create(served: Served, request: Request, raw: bytes) -> Answer | Stream:
    """Answer a request. Raises PrebleError and HttpError."""
    asked = await _read(served, request, raw, counted=False)
    pieces = answer(served.cluster, asked.ask)
    progress = Progress(f"msg_{uuid4().hex}", asked.model, partial(placed, served.cluster))
    if asked.body.stream:
        return Stream(_encoded(pieces, progress))
    async with aclosing(pieces):
        async for piece in pieces:
            for _ in progress.add(piece):
                pass
    return Answer(progress.message)


async def count_tokens(served: Served, request: Request, raw: bytes) -> Answer:
    """Answer with the number of tokens of the prompt that the messages and tools are."""
    asked = await _read(served, request, raw, counted=True)
    tokenizer = served.cluster.tokenizer
    if tokenizer is None:
        raise InvalidRequestError("the model has no tokenizer", field="model")
    options = asked.ask.options
    template = {**(options.get("chat_template_kwargs") or {}), "tools": options.get("tools")}
    return Answer({"input_tokens": await asyncio.to_thread(partial(tokenizer.count, asked.body.messages, **template))})


async def _read(served: Served, request: Request, raw: bytes, *, counted: bool) -> chat.Chat:
    fields = bodies.fields(raw)
    own, passed = split(fields, OWN)
    body = bodies.read(own, MessageBody, also=PASSED)
    check(body, counted=counted)
    spoken = chat_fields(body, passed)
    return await read_chat(served, spoken, session(request.headers, fields), SPELLED)


async def _encoded(pieces: AsyncGenerator[Piece, None], progress: Progress) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for event in message_events(pieces, progress, _told):
            yield sse.event(event, event["type"])


def _told(error: PrebleError) -> Event:
    return error_body(failure(error), error.request_id)
