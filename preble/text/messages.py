"""Chat messages as templates expect them: plain JSON, with the field names that templates know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, TypeVar

import msgspec

from preble.errors import InvalidRequestError

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names of the field with a message's reasoning; templates read one of the first two."""

_DUMPS = ("model_dump", "to_dict")
_NO_CALLS: tuple[str, list[Any]] = ("tool_calls", [])

Kind = TypeVar("Kind")


def plain(value: object, kind: type[Kind], field: str) -> Kind:
    """Return a copy of `value` made of JSON types only: a template must not get hold of an object with methods.

    Objects with `model_dump` or `to_dict`, as clients return them, become what these return. Raises InvalidRequestError
    naming `field` if it is not JSON of this `kind`.
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_dumped), type=kind)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not JSON of the right form ({error})", field=field) from None


def is_typed(value: object) -> bool:
    """Return whether `value` is an object that tells its fields, as the messages that clients return."""
    tells = is_dataclass(value) or any(callable(getattr(value, name, None)) for name in _DUMPS)
    return tells and not isinstance(value, type)


def _dumped(value: object) -> Any:
    for name in _DUMPS:
        if callable(dump := getattr(value, name, None)):
            return dump()
    raise TypeError(f"{type(value).__name__} is not JSON")


def template_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a copy of `messages` in which nothing is null, reasoning has its usual names, and arguments are objects.

    An empty list of tool calls is left out too. OpenAI's clients pass the arguments of tool calls as JSON text, but
    templates expect an object, so the text is decoded, as in vLLM and SGLang. Text that is not an object stays. Raises
    InvalidRequestError for malformed messages.
    """
    copies = plain(messages, list[dict[str, Any]], "messages")
    if not copies:
        raise InvalidRequestError("must not be empty", field="messages")
    for index, message in enumerate(copies):
        _check(index, message)
    return [_aliased(_decoded(_given(copy))) for copy in copies]


def _given(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if value is not None and (name, value) != _NO_CALLS}


def _check(index: int, message: Mapping[str, Any]) -> None:
    if not isinstance(message.get("role"), str):
        raise InvalidRequestError(f"message {index} needs a role", field="messages")
    if not isinstance(message.get("content"), (str, list, type(None))):
        raise InvalidRequestError(f"message {index}: content must be text or a list of parts", field="messages")


def _aliased(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = next((message[name] for name in REASONING if name in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _decoded(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and "arguments" in function:
            function["arguments"] = _object(function["arguments"])
    return message


def _object(arguments: Any) -> Any:
    if arguments in (None, ""):
        return {}
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any]) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
