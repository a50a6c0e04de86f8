"""`continue_final_message`: the prompt ends within the last message, so that the model continues it."""

from __future__ import annotations

from typing import Any

from preble.errors import InvalidRequestError
from preble.text.messages import REASONING

_TAG = "<preble continues here> "
"""Marks the end of the message in the rendered prompt. Its space shows whether the template strips text."""


def tag(messages: list[dict[str, Any]], field: str) -> None:
    """Mark the end of the last message's `field`. Raises InvalidRequestError if there is no text."""
    last = messages[-1]
    text = last.get(field)
    if isinstance(text, list):
        _tag_part(text)
        return
    if not isinstance(text, str):
        raise InvalidRequestError(f"the last message has no {field} to continue", field="continue_final_message")
    names = [name for name in REASONING if last.get(name) == text] if field in REASONING else [field]
    last.update(dict.fromkeys(names, text + _TAG))


def cut(prompt: str) -> str:
    """Return what comes before the mark. Raises InvalidRequestError if the template has lost it."""
    end = prompt.rfind(_TAG.strip())
    if end < 0:
        raise InvalidRequestError("the chat template does not show the last message", field="continue_final_message")
    kept = prompt[:end]
    return kept if prompt.startswith(_TAG, end) else kept.rstrip()


def _tag_part(parts: list[Any]) -> None:
    for part in reversed(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            part["text"] += _TAG
            return
    raise InvalidRequestError("the last message has no text to continue", field="continue_final_message")
