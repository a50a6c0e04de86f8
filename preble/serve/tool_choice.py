"""Whether a chat may call tools, and which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preble.errors import InvalidRequestError

_WORDS = ("auto", "none", "required")


def shown_tools(tools: Sequence[dict[str, Any]] | None, choice: object) -> Sequence[dict[str, Any]] | None:
    """Return the tools that the template shows. Raises InvalidRequestError for a `tool_choice` that cannot be had.

    That is also "required", or a tool by its name: no engine of ours can be made to call one.
    """
    if choice is None:
        return tools
    name = _named(choice)
    if name is not None and name not in [tool["function"]["name"] for tool in tools or ()]:
        raise InvalidRequestError(f"there is no tool {name!r}", field="tool_choice")
    if name is not None or choice == "required":
        raise InvalidRequestError("a call cannot be enforced: use auto", field="tool_choice")
    return None if choice == "none" else tools


def _named(choice: object) -> str | None:
    """Return the name of the one tool that must be called, None for a word."""
    if choice in _WORDS:
        return None
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InvalidRequestError(f"must be one of {', '.join(_WORDS)}, or name a function", field="tool_choice")
    return name
