"""Tools, the choice of one, and the form of the text, as chat completions say them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preble.errors import InvalidRequestError

_FUNCTION = ("name", "description", "parameters", "strict")


def chat_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return functions as chat completions have them. Raises InvalidRequestError for tools of other types."""
    return [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise InvalidRequestError(f"{tool.get('type')!r} is not taken, only function", field=f"{where}.type")
    for name, value in tool.items():
        if name not in ("type", *_FUNCTION) and value is not None:
            raise InvalidRequestError("unknown field of a function", field=f"{where}.{name}")
    return {"type": "function", "function": {name: tool[name] for name in _FUNCTION if tool.get(name) is not None}}


def chat_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return `tool_choice` as chat completions have it."""
    if isinstance(choice, str):
        return choice
    if choice.get("type") != "function":
        raise InvalidRequestError(f"{choice.get('type')!r} is not taken, only function", field="tool_choice.type")
    return {"type": "function", "function": {"name": choice.get("name")}}


def response_format(form: dict[str, Any]) -> dict[str, Any]:
    """Return `text.format` as the `response_format` of chat completions."""
    if form.get("type") != "json_schema":
        return form
    schema = {name: value for name, value in form.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}
