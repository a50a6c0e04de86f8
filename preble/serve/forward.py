"""Over servers that run already: a body goes as it is to the server that is chosen, and its answer comes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request

from preble.backends.openai.forward import Forward
from preble.serve import bodies
from preble.serve.endpoint import Relayed
from preble.serve.routing import routing_ids
from preble.serve.served import Served
from preble.serve.sessions import session
from preble.types import MOST_TOKENS, RequestKeywords, SamplingParams

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
)
"""What is forwarded. A server that does not have one of them says so itself."""

_OURS = {
    "authorization", "connection", "content-encoding", "content-length", "cookie", "host", "keep-alive",
    "proxy-authorization", "server", "date", "te", "trailer", "transfer-encoding", "upgrade", "x-api-key",
}  # fmt: skip
"""Headers that concern one connection, or say who may ask: they are not passed on."""
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


async def forward(served: Served, request: Request, raw: bytes) -> Relayed:
    """Answer with what a server answers. Raises PrebleError if none can be had before the first byte."""
    fields = bodies.fields(raw)
    ids, _ = await routing_ids(fields, served.cluster.tokenizer)
    sent = Forward(request.url.path, raw, _passed(request.headers), streams=fields.get("stream") is True)
    options: RequestKeywords = {"session": session(request.headers, fields), "priority": _priority(fields)}
    parts = served.cluster.forward(sent, ids, SamplingParams(max_tokens=_limit(fields)), **options)
    return await _begun(sent, parts)


async def _begun(sent: Forward, parts: AsyncGenerator[bytes, None]) -> Relayed:
    """Wait for the first bytes, which the head comes with."""
    try:
        first = await anext(parts, b"")
    except BaseException:
        await parts.aclose()
        raise
    assert sent.head is not None
    return Relayed(sent.head.status, _passed(sent.head.headers), first, parts, streams=sent.streams)


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OURS}


def _limit(fields: Mapping[str, Any]) -> int | None:
    found = (fields.get(name) for name in _LIMITS)
    return next((limit for limit in found if isinstance(limit, int) and 0 < limit <= MOST_TOKENS), None)


def _priority(fields: Mapping[str, Any]) -> int:
    priority = fields.get("priority")
    return priority if isinstance(priority, int) and abs(priority) < 1 << 31 else 0
