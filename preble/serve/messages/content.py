"""Messages of the Messages protocol, as the messages of a chat: its blocks are messages or fields of one there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from preble.errors import InvalidRequestError, nearest
from preble.serve.messages.body import Block, CacheControl, Turn

Message = dict[str, Any]


def chat_messages(system: str | Sequence[Block] | None, turns: Sequence[Turn]) -> list[Message]:
    """Return the chat. Raises InvalidRequestError, which names the block, for one that is malformed or not taken."""
    messages = [] if not system else [{"role": "system", "content": _texts(system, "system")}]
    for index, turn in enumerate(turns):
        messages.extend(_messages(turn, f"messages[{index}]"))
    return messages


def _messages(turn: Turn, where: str) -> Iterator[Message]:
    if isinstance(turn.content, str):
        yield {"role": turn.role, "content": turn.content}
        return
    blocks = [(block, f"{where}.content[{index}]") for index, block in enumerate(turn.content)]
    for block, place in blocks:
        _check(block, turn.role, place)
    if turn.role == "assistant":
        yield _assistant(blocks)
    else:
        yield from _given(turn.role, blocks)


def _given(role: str, blocks: list[tuple[Block, str]]) -> Iterator[Message]:
    """Yield what tools returned, then what the user says: a chat has the results right after the calls."""
    for block, place in blocks:
        if block["type"] == "tool_result":
            yield _result(block, place)
    texts = [block for block, _ in blocks if block["type"] == "text"]
    if texts or not blocks:
        yield {"role": role, "content": _joined(texts)}


def _result(block: Block, place: str) -> Message:
    content = _texts(block.get("content") or "", f"{place}.content")
    return {"role": "tool", "tool_call_id": _text(block, "tool_use_id", place), "content": content}


def _assistant(blocks: list[tuple[Block, str]]) -> Message:
    named = {kind: [(block, place) for block, place in blocks if block["type"] == kind] for kind in _ASSISTANT}
    message: Message = {"role": "assistant", "content": "".join(block["text"] for block, _ in named["text"])}
    if thoughts := [_text(block, "thinking", place) for block, place in named["thinking"]]:
        message["reasoning_content"] = "".join(thoughts)
    if calls := [_call(block, place) for block, place in named["tool_use"]]:
        message["tool_calls"] = calls
    return message


def _call(block: Block, place: str) -> Message:
    if not isinstance(block.get("input"), dict):
        raise InvalidRequestError("must be an object", field=f"{place}.input")
    function = {"name": _text(block, "name", place), "arguments": msgspec.json.encode(block["input"]).decode()}
    return {"id": _text(block, "id", place), "type": "function", "function": function}


def _texts(content: str | Sequence[Block], where: str) -> str | list[Message]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError("must be text or a list of blocks", field=where)
    for index, block in enumerate(content):
        _check(block, "", f"{where}[{index}]")
    return _joined(content)


def _joined(texts: Sequence[Block]) -> str | list[Message]:
    """Return the text of one block, or parts as chat completions have them."""
    if len(texts) == 1:
        return str(texts[0]["text"])
    return [{"type": "text", "text": block["text"]} for block in texts]


def _check(block: Block, role: str, where: str) -> None:
    """Raise InvalidRequestError unless the block is of a type that the role may have, with no field but its own."""
    kinds = {"assistant": _ASSISTANT, "user": _USER}.get(role, _TEXT)
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise InvalidRequestError(f"blocks of type {kind!r} are not taken here, only {', '.join(kinds)}", field=where)
    for name, value in block.items():
        if name not in kinds[kind] and value is not None:
            raise InvalidRequestError(f"unknown field{nearest(name, kinds[kind])}", field=f"{where}.{name}")
    if kind == "text":
        _text(block, "text", where)
    _check_hint(block.get("cache_control"), f"{where}.cache_control")


def _check_hint(hint: Any, where: str) -> None:
    try:
        msgspec.convert(hint, CacheControl | None)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error), field=where) from None


_TEXT = {"text": frozenset({"type", "text", "cache_control", "citations"})}
_USER = {**_TEXT, "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})}
_ASSISTANT = {
    **_TEXT,
    "tool_use": frozenset({"type", "id", "name", "input", "cache_control"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
}


def _text(block: Block, field: str, where: str) -> str:
    value = block.get(field)
    if not isinstance(value, str):
        raise InvalidRequestError(f"must be text, not {value!r:.80}", field=f"{where}.{field}")
    return value
