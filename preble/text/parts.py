"""Content as a list of parts: text only, joined for templates that want text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from preble.errors import InvalidRequestError

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The types of parts that are text, and the field that has it."""

_MEDIA = ("image", "audio", "video", "file")
_PROBE = "preble asks whether parts are shown"


def takes_parts(render: Callable[[list[dict[str, Any]]], str]) -> bool:
    """Return whether a template shows the text of a list of parts, rather than refuse the list or print it whole."""
    try:
        shown = render([{"role": "user", "content": [{"type": "text", "text": _PROBE}]}])
    except Exception:  # a template can fail in any way
        return False
    return _PROBE in shown and not any(quote + _PROBE in shown for quote in "'\"")


def check_parts(messages: Sequence[dict[str, Any]]) -> bool:
    """Return whether a message has a list of parts. Raises InvalidRequestError for images, sound and files."""
    lists = [(index, message["content"]) for index, message in enumerate(messages) if _has_parts(message)]
    for index, part in ((index, part) for index, parts in lists for part in parts):
        kind = _kind(part)
        if any(kind.startswith((medium, f"input_{medium}")) for medium in _MEDIA):
            raise InvalidRequestError(
                f"message {index} has a part of type {kind}: only text is taken", field="messages"
            )
    return bool(lists)


def join_parts(messages: Sequence[dict[str, Any]]) -> None:
    """Put the texts of parts, one on a line, in the place of lists. Raises InvalidRequestError for other parts."""
    for index, message in enumerate(messages):
        if _has_parts(message):
            message["content"] = "\n".join(_text(index, part) for part in message["content"])


def _has_parts(message: dict[str, Any]) -> bool:
    return isinstance(message.get("content"), list)


def _kind(part: object) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else "text"
    return kind if isinstance(kind, str) else repr(kind)


def _text(index: int, part: Any) -> str:
    text = part.get(_TEXTS.get(_kind(part), "")) if isinstance(part, dict) else None
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"message {index} has a part of type {_kind(part)} without text: the chat template takes text",
            field="messages",
        )
    return text
