"""The form that an answer must have."""

from __future__ import annotations

from typing import Any

from preble.errors import InvalidRequestError

_KINDS = ("text", "json_object", "json_schema")


def check_format(given: dict[str, Any] | None) -> None:
    """Raise InvalidRequestError for a form that cannot be had: no engine of ours can be held to one but text."""
    kind = "text" if given is None else given.get("type")
    if kind not in _KINDS:
        raise InvalidRequestError(f"its type must be one of {', '.join(_KINDS)}", field="response_format")
    if kind != "text":
        raise InvalidRequestError(f"{kind} cannot be enforced: ask for it in words", field="response_format")
