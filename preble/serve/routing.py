"""What the scheduler knows a forwarded request by: the ids of its prompt, or without a tokenizer those of its text."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np

from preble.errors import InvalidRequestError
from preble.text import ChatTokenizer
from preble.tokens import FIRST_TEXT_ID, pack
from preble.types import PromptIds

_MIX = np.uint32(2_654_435_761)  # Knuth's multiplier, so that the bits that are kept depend on all
_LONG = 2_000
"""Characters from which a prompt is tokenized in a thread."""

AskServer: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Asks a server's `/tokenize`: takes its body, returns packed ids, or nothing."""

_TOKENIZED = ("model", "messages", "prompt", "tools", "chat_template_kwargs")


async def routing_ids(
    fields: Mapping[str, Any], tokenizer: ChatTokenizer | None, ask: AskServer | None = None
) -> tuple[bytes, PromptIds]:
    """Return packed ids, and whether they are of the `tokenizer`, of a server that is asked, or stand for text.

    Equal beginnings of prompts have equal ids. Pictures and sounds count by their content.
    """
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(id, int) for id in prompt):
        return pack(prompt, field="prompt"), "tokenizer"
    text = "".join(_texts(fields))
    if tokenizer is not None and not _has_media(fields.get("messages")):
        ids = await _tokenized(fields, text, tokenizer)
        if ids:
            return ids, "tokenizer"
    if tokenizer is None and ask is not None and _is_readable(fields):
        body = {name: fields[name] for name in _TOKENIZED if fields.get(name) is not None}
        if ids := await ask(msgspec.json.encode(body)):
            return ids, "server"
    return text_ids(text), "text"


def _is_readable(fields: Mapping[str, Any]) -> bool:
    """Whether `/tokenize` takes such a prompt: a text, or a chat of text alone."""
    messages = fields.get("messages")
    is_chat = isinstance(messages, list) and "system" not in fields and not _has_media(messages)
    return is_chat or isinstance(fields.get("prompt"), str)


def text_ids(text: str) -> bytes:
    """Return an id for each four bytes of the text, at least one."""
    raw = text.encode("utf-8", "surrogatepass")
    padded = raw + b"\0" * (-len(raw) % 4) or b"\0" * 4
    mixed = np.frombuffer(padded, dtype="<u4") * _MIX
    return (np.right_shift(mixed, 2) | np.uint32(FIRST_TEXT_ID)).astype("<u4").tobytes()


async def _tokenized(fields: Mapping[str, Any], text: str, tokenizer: ChatTokenizer) -> bytes:
    """Return the packed ids of the prompt as its server will have them, nothing if it is of another kind."""
    messages, prompt = fields.get("messages"), fields.get("prompt")
    try:
        if isinstance(messages, list) and "system" not in fields:
            kwargs = {"tools": fields.get("tools"), **(fields.get("chat_template_kwargs") or {})}
            ids = await _aside(text, lambda: tokenizer.apply_chat_template(messages, **kwargs))
        elif isinstance(prompt, str):
            ids = await _aside(text, lambda: tokenizer.encode(prompt))
        else:
            return b""
        return pack(ids, field="prompt")
    except (InvalidRequestError, TypeError):  # the server may understand it all the same
        return b""


async def _aside(text: str, tokenize: Any) -> list[int]:
    ids: list[int] = tokenize() if len(text) < _LONG else await asyncio.to_thread(tokenize)
    return ids


def _texts(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the prompt is made of, in the order in which templates have it."""
    yield f"{fields.get('model')}\n"
    for name in ("tools", "system", "instructions", "prompt", "input"):
        if fields.get(name):
            yield _text(fields[name])
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping):
            yield f"\n{message.get('role')}\n"
            yield from (_text(message[name]) for name in ("content", "tool_calls") if message.get(name))


def _text(value: Any) -> str:
    """Return text as it is, and other things as JSON in which media are replaced by their hashes."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        return "".join(str(part.get("text")) for part in value)
    return msgspec.json.encode(_hashed(value)).decode()


def _hashed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _hashed(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_hashed(part) for part in value]
    if isinstance(value, str) and len(value) > 256:
        return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return value


def _has_media(messages: Any) -> bool:
    listed = messages if isinstance(messages, list) else ()
    contents = [each.get("content") for each in listed if isinstance(each, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(not isinstance(part, Mapping) or part.get("type") != "text" for part in parts)
