"""The endpoints of the Responses protocol: a response is made, returned again, and forgotten."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from preble.errors import InvalidRequestError
from preble.serve import bodies, chat, errors, logprobs, sse
from preble.serve.answer import Piece, answer
from preble.serve.endpoint import Answer, Endpoint, Stream
from preble.serve.errors import HttpError
from preble.serve.responses.body import OWN, ResponseBody, check
from preble.serve.responses.chat import SPELLED, chat_fields
from preble.serve.responses.events import Progress, response_events
from preble.serve.responses.items import Message, messages_of, output_messages
from preble.serve.responses.output import Event
from preble.serve.responses.response import begun
from preble.serve.responses.store import Store
from preble.serve.served import Served
from preble.serve.sessions import session
from preble.serve.spelling import PASSED, read_chat, split
from preble.serve.usage import placed


class Asked(msgspec.Struct, frozen=True):
    """A response that is asked for: `messages` are its conversation so far, `first` the object without output."""

    chat: chat.Chat
    messages: list[Message]
    first: Event


def routes(served: Served, max_body: int) -> list[Route]:
    """Return the paths of the protocol. The responses of one application are kept together."""
    store = Store()
    return [
        Route(
            path,
            Endpoint(partial(handler, served, store), max_body=max_body, names={"prompt": "input"}),
            methods=[method],
        )
        for path, method, handler in (
            ("/v1/responses", "POST", create),
            ("/v1/responses/{id}", "GET", retrieve),
            ("/v1/responses/{id}", "DELETE", delete),
        )
    ]


async def create(served: Served, store: Store, request: Request, raw: bytes) -> Answer | Stream:
    """Answer a request. Raises PrebleError and HttpError."""
    asked = await _read(served, store, request, raw)
    pieces = answer(served.cluster, asked.chat.ask)
    progress = Progress(asked.first, partial(_logprobs, served), partial(placed, served.cluster))
    if asked.chat.body.stream:
        return Stream(_encoded(pieces, progress, store, asked))
    async with aclosing(pieces):
        async for piece in pieces:
            for _ in progress.add(piece):
                pass
    _keep(store, asked, progress.response)
    return Answer(progress.response)


async def retrieve(served: Served, store: Store, request: Request, raw: bytes) -> Answer:
    """Answer with a stored response."""
    if request.query_params.get("stream", "false").lower() != "false":
        raise InvalidRequestError("a stored response is not streamed again", field="stream")
    stored = store.get(request.path_params["id"])
    if stored is None:
        raise _missing(404, request.path_params["id"])
    return Answer(stored.response)


async def delete(served: Served, store: Store, request: Request, raw: bytes) -> Answer:
    """Forget a stored response."""
    id = request.path_params["id"]
    if not store.delete(id):
        raise _missing(404, id)
    return Answer({"id": id, "object": "response", "deleted": True})


async def _read(served: Served, store: Store, request: Request, raw: bytes) -> Asked:
    fields = bodies.fields(raw)
    own, passed = split(fields, OWN)
    body = bodies.read(own, ResponseBody, also=PASSED)
    check(body)
    messages = conversation(store, body)
    spoken = chat_fields(body, messages, passed)
    asked = await read_chat(served, spoken, session(request.headers, fields), SPELLED)
    first = begun(body, id=f"resp_{uuid4().hex}", created_at=int(time.time()), model=asked.model)
    return Asked(asked, messages, first)


def conversation(store: Store, body: ResponseBody) -> list[Message]:
    """Return the messages of the response that this one continues, and of its input.

    Raises HttpError if that response is not stored, or not any more.
    """
    if body.previous_response_id is None:
        return messages_of(body.input)
    stored = store.get(body.previous_response_id)
    if stored is None:
        raise _missing(400, body.previous_response_id, "previous_response_id")
    return [*msgspec.json.decode(stored.messages), *messages_of(body.input)]


async def _encoded(
    pieces: AsyncGenerator[Piece, None], progress: Progress, store: Store, asked: Asked
) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for event in response_events(pieces, progress, lambda error: errors.failure(error).code):
            if progress.response["status"] in ("completed", "incomplete"):
                _keep(store, asked, progress.response)
            yield sse.event(event, event["type"])


def _keep(store: Store, asked: Asked, response: Event) -> None:
    """Store a response that ended, unless it is not to be stored."""
    if response["store"]:
        store.put(response, [*asked.messages, *output_messages(response["output"])])


def _logprobs(served: Served, piece: Piece) -> list[Event]:
    tokens = piece.chunk.logprobs
    return logprobs.of_chat(tokens, served.cluster.tokenizer)["content"] if tokens else []


def _missing(status: int, id: str, param: str | None = None) -> HttpError:
    code = "not_found" if param is None else "previous_response_not_found"
    return HttpError(status, f"response {id!r:.80} is not stored, or not any more", code=code, param=param)
