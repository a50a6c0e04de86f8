"""Llama 3: an answer that is nothing but objects `{"name": "f", "parameters": {...}}`, separated by semicolons."""

from __future__ import annotations

from preble.serve.parsers.marked import Marked
from preble.serve.parsers.objects import Objects
from preble.serve.parsers.said import Said

_TAG = "<|python_tag|>"
SPECIAL = frozenset({_TAG})
"""A special token, which may stand before the objects."""


class Llama3:
    """Takes an answer that begins with a brace as if the tag were before it."""

    def __init__(self) -> None:
        """Begin an answer."""
        self._marked = Marked([_TAG], [], Objects)
        self._before = ""
        self._tagged: bool | None = None

    def add(self, text: str) -> Said:
        """Take the next characters and return what is certain by now."""
        if self._tagged is not None:
            return self._plain(self._marked.add(text))
        self._before += text
        if not self._before.strip():
            return Said()
        self._tagged = self._before.lstrip().startswith("{")
        return self._plain(self._marked.add(_TAG * self._tagged + self._before))

    def finish(self) -> Said:
        """Return what was held back: the output has ended."""
        if self._tagged is None:
            return Said(self._before)
        return self._plain(self._marked.finish())

    def _plain(self, said: Said) -> Said:
        """What was no call is shown without the tag, which the model did not write."""
        return Said(said.text.removeprefix(_TAG), said.reasoning, said.calls) if self._tagged else said
