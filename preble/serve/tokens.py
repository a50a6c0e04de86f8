"""`POST /tokenize` and `POST /detokenize`, with the fields of vLLM's server."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request

from preble.cluster.prompt import template_options
from preble.errors import InvalidRequestError
from preble.serve import bodies
from preble.serve.endpoint import Answer
from preble.serve.logprobs import text_of
from preble.serve.served import Served
from preble.text import ChatTokenizer


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `prompt` of text, or `messages` of a chat."""

    model: str = ""
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    return_token_strs: bool = False


class DetokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Token ids."""

    tokens: list[int]
    model: str = ""


async def tokenize(served: Served, request: Request, raw: bytes) -> Answer:
    """Answer with the token ids of a prompt, their number, and the longest context of a worker, in tokens."""
    body = bodies.read(bodies.fields(raw), TokenizeBody)
    served.named(body.model)
    tokenizer = _tokenizer(served)
    ids = await asyncio.to_thread(_encode, tokenizer, body)
    longest = max((info.context_limit for info in served.cluster.engines().values()), default=0)
    words = [text_of(id, tokenizer) for id in ids] if body.return_token_strs else None
    return Answer({"count": len(ids), "max_model_len": longest, "tokens": ids, "token_strs": words})


async def detokenize(served: Served, request: Request, raw: bytes) -> Answer:
    """Answer with the text of token ids."""
    body = bodies.read(bodies.fields(raw), DetokenizeBody)
    served.named(body.model)
    if any(not 0 <= id < 1 << 31 for id in body.tokens):
        raise InvalidRequestError("must be token ids", field="tokens")
    text = await asyncio.to_thread(_tokenizer(served).decode, body.tokens, skip_special_tokens=False)
    return Answer({"prompt": text})


def _encode(tokenizer: ChatTokenizer, body: TokenizeBody) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError("give either a prompt or messages", field="prompt")
    if body.prompt is not None:
        return tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)
    template = {
        "add_generation_prompt": False if body.continue_final_message else body.add_generation_prompt,
        "continue_final_message": body.continue_final_message,
        **template_options(body.chat_template_kwargs),
        "tools": body.tools,
    }
    ids: list[int] = tokenizer.apply_chat_template(body.messages or (), **template)
    return ids


def _tokenizer(served: Served) -> ChatTokenizer:
    tokenizer = served.cluster.tokenizer
    if tokenizer is None:
        raise InvalidRequestError("the model has no tokenizer", field="model")
    return tokenizer
