"""Whether a chat may call tools, and which; what the output must be where a call is enforced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from preble.errors import InvalidRequestError

Tool = Mapping[str, Any]
_WORDS = ("auto", "none", "required")
_DEFINITIONS = ("$defs", "definitions")
"""Where a JSON schema keeps parts that it refers to: from its root, so that they move there with it."""


class ToolChoice(msgspec.Struct, frozen=True):
    """The tools that the template shows, and those of which one must be called, none of them if none must."""

    shown: Sequence[dict[str, Any]] | None
    forced: Sequence[dict[str, Any]] = ()


def tool_choice(tools: Sequence[dict[str, Any]] | None, choice: object) -> ToolChoice:
    """Return what `tool_choice` asks for. Raises InvalidRequestError for what is none, or names no tool."""
    if choice is None:
        return ToolChoice(tools)
    name = _named(choice)
    if name is not None:
        forced = [tool for tool in tools or () if tool["function"]["name"] == name]
        if not forced:
            raise InvalidRequestError(f"there is no tool {name!r}", field="tool_choice")
        return ToolChoice(tools, forced)
    if choice == "required" and not tools:
        raise InvalidRequestError("needs tools", field="tool_choice")
    return ToolChoice(None if choice == "none" else tools, (tools or ()) if choice == "required" else ())


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """Return the JSON schema of a call of one of the tools: an object with its `name` and its `arguments`.

    Raises InvalidRequestError if two of them define something of the same name differently.
    """
    definitions: dict[str, dict[str, Any]] = {}
    calls = [_call(tool["function"], definitions) for tool in tools]
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), **definitions}


def _call(function: Tool, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    arguments = {"type": "object", **(function.get("parameters") or {})}
    for keyword in _DEFINITIONS:
        if isinstance(arguments.get(keyword), dict):
            _add(arguments.pop(keyword), definitions.setdefault(keyword, {}))
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _add(parts: Mapping[str, Any], known: dict[str, Any]) -> None:
    for name, part in parts.items():
        if known.setdefault(name, part) != part:
            raise InvalidRequestError(f"two of them define {name!r} differently", field="tools")


def _named(choice: object) -> str | None:
    """Return the name of the one tool that must be called, None for a word."""
    if choice in _WORDS:
        return None
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InvalidRequestError(f"must be one of {', '.join(_WORDS)}, or name a function", field="tool_choice")
    return name
