"""Input items of the Responses protocol, as the messages of a chat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from preble.errors import InvalidRequestError, nearest

Message = dict[str, Any]

_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal", "reasoning_text": "text"}
"""The types of content that are text, and the field that has it."""

_PART_FIELDS = frozenset({"type", "text", "refusal", "annotations", "logprobs"})


def messages_of(given: str | Sequence[dict[str, Any]]) -> list[Message]:
    """Return the messages that `input` says; an assistant's reasoning, text and calls in a row are one message.

    Raises InvalidRequestError, which names the item, for one that is malformed or of a type that is not taken.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Message] = []
    for index, item in enumerate(given):
        _append(messages, _message(item, f"input[{index}]"))
    return messages


def output_messages(output: Iterable[dict[str, Any]]) -> list[Message]:
    """Return the messages that output items are, for the next turn of the conversation."""
    return messages_of(list(output))


def _append(messages: list[Message], message: Message) -> None:
    last = messages[-1] if messages else {}
    if message["role"] == last.get("role") == "assistant" and not _said_twice(last, message):
        calls = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
        messages[-1] = {**last, **message, **({"tool_calls": calls} if calls else {})}
    else:
        messages.append(message)


def _said_twice(last: Message, message: Message) -> bool:
    """Return whether `message` is a new turn: text or reasoning again, or what comes after calls were made."""
    fields = ("content", "reasoning_content")
    return any(name in message and (name in last or "tool_calls" in last) for name in fields)


def _message(item: dict[str, Any], where: str) -> Message:
    kind = item.get("type", "message")
    read = _KINDS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise InvalidRequestError(f"items of type {kind!r} are not taken, only {', '.join(_KINDS)}", field=where)
    _check_fields(item, _FIELDS[kind] | {"type", "id", "status"}, where)
    return read(item, where)


def _check_fields(item: dict[str, Any], known: frozenset[str], where: str) -> None:
    for name, value in item.items():
        if name not in known and value is not None:
            raise InvalidRequestError(f"unknown field{nearest(name, known)}", field=f"{where}.{name}")


def _spoken(item: dict[str, Any], where: str) -> Message:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise InvalidRequestError(f"{role!r} is not user, assistant, system or developer", field=f"{where}.role")
    return {"role": "system" if role == "developer" else role, "content": _content(item.get("content"), where)}


def _call(item: dict[str, Any], where: str) -> Message:
    name, arguments = (_text(item, field, where) for field in ("name", "arguments"))
    call = {"id": _text(item, "call_id", where), "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


def _result(item: dict[str, Any], where: str) -> Message:
    content = _content(item.get("output"), where, "output")
    return {"role": "tool", "tool_call_id": _text(item, "call_id", where), "content": content}


def _reasoning(item: dict[str, Any], where: str) -> Message:
    """Return the reasoning itself where the item has it, else its summary."""
    if item.get("encrypted_content") is not None:
        raise InvalidRequestError("the reasoning of another server cannot be read", field=f"{where}.encrypted_content")
    texts = item.get("content") or item.get("summary") or []
    if not isinstance(texts, list):
        raise InvalidRequestError("must be a list", field=f"{where}.content")
    text = "".join(_text(part if isinstance(part, dict) else {}, "text", where) for part in texts)
    return {"role": "assistant", **({"reasoning_content": text} if text else {})}


_KINDS: dict[str, Callable[[dict[str, Any], str], Message]] = {
    "message": _spoken,
    "function_call": _call,
    "function_call_output": _result,
    "reasoning": _reasoning,
}
_FIELDS = {
    "message": frozenset({"role", "content", "phase"}),
    "function_call": frozenset({"name", "arguments", "call_id"}),
    "function_call_output": frozenset({"output", "call_id"}),
    "reasoning": frozenset({"content", "summary", "encrypted_content"}),
}


def _content(content: Any, where: str, field: str = "content") -> str | list[Message]:
    """Return text, or text parts as chat completions have them if there is not exactly one."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError("must be text or a list of parts", field=f"{where}.{field}")
    texts = [_part(part, f"{where}.{field}[{index}]") for index, part in enumerate(content)]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _PARTS:
        raise InvalidRequestError(f"parts of type {kind!r} are not taken, only text", field=where)
    _check_fields(part, _PART_FIELDS, where)
    return _text(part, _PARTS[kind], where)


def _text(item: dict[str, Any], field: str, where: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise InvalidRequestError(f"must be text, not {value!r:.80}", field=f"{where}.{field}")
    return value
