"""Over servers that run already: a body goes as it is to the server that is chosen, and its answer comes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request

from preble.backends.openai.forward import Forward
from preble.errors import InvalidRequestError
from preble.serve import bodies
from preble.serve.endpoint import Relayed
from preble.serve.routing import routing_ids
from preble.serve.served import Served
from preble.serve.sessions import fits, session
from preble.types import MOST_TOKENS, RequestKeywords, SamplingParams

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/{path:path}",
    "/tokenize",
    "/detokenize",
)
"""What is forwarded. A server that does not have one of them says so itself."""

_GENERATE = PATHS[:4]
_NAMED = ("/v1/responses", "/v1/messages")  # their events have names, and no [DONE] follows

_OURS = {
    "accept-encoding", "authorization", "connection", "content-length", "cookie", "host", "keep-alive",
    "proxy-authorization", "server", "date", "te", "trailer", "transfer-encoding", "upgrade", "x-api-key",
}  # fmt: skip
"""Headers that concern one connection, or say who may ask: they are not passed on."""
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


async def forward(served: Served, request: Request, raw: bytes) -> Relayed:
    """Answer with what a server answers. Raises PrebleError if none can be had before the first byte."""
    fields = _fields(raw)
    path, query = request.url.path, request.url.query
    ask = served.cluster.tokenized if path in _GENERATE else None
    ids, source = await routing_ids(fields, served.cluster.tokenizer, ask)
    sent = Forward(
        f"{path}?{query}" if query else path, raw, _passed(request.headers), streams=fields.get("stream") is True
    )
    options: RequestKeywords = {
        "session": session(request.headers, fields),
        "priority": _priority(fields),
        "tenant": _tenant(fields),
    }
    sampling = SamplingParams(max_tokens=_limit(fields))
    parts = served.cluster.forward(sent, ids, sampling, prompt_ids=source if path in _GENERATE else None, **options)
    return await _begun(sent, parts, path)


async def _begun(sent: Forward, parts: AsyncGenerator[bytes, None], path: str) -> Relayed:
    """Wait for the first bytes, which the head comes with."""
    try:
        first = await anext(parts, b"")
    except BaseException:
        await parts.aclose()
        raise
    assert sent.head is not None
    return Relayed(
        sent.head.status,
        _passed(sent.head.headers),
        first,
        parts,
        streams=sent.streams,
        error_event="error" if path in _NAMED else None,
    )


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    connection = next((value for name, value in headers.items() if name.lower() == "connection"), "")
    named = {name.strip().lower() for name in connection.split(",")}
    return {name: value for name, value in headers.items() if name.lower() not in _OURS | named}


def _limit(fields: Mapping[str, Any]) -> int | None:
    found = (fields.get(name) for name in _LIMITS)
    return next((limit for limit in found if isinstance(limit, int) and 0 < limit <= MOST_TOKENS), None)


def _fields(raw: bytes) -> Mapping[str, Any]:
    """Return the fields of a body, none if it is no JSON object: what is wrong with it is for the server to say."""
    try:
        return bodies.fields(raw)
    except InvalidRequestError:
        return {}


def _tenant(fields: Mapping[str, Any]) -> str:
    salt = fields.get("cache_salt")
    return str(salt) if fits(salt) else ""


def _priority(fields: Mapping[str, Any]) -> int:
    priority = fields.get("priority")
    return priority if isinstance(priority, int) and abs(priority) < 1 << 31 else 0
