"""Mistral: `[TOOL_CALLS]` and an array of objects, or `[TOOL_CALLS]f[ARGS]{...}` for each call."""

from __future__ import annotations

from preble.serve.parsers.marked import Marked
from preble.serve.parsers.named import NamedCall
from preble.serve.parsers.objects import Objects
from preble.serve.parsers.said import CallPart

_BEGIN = "[TOOL_CALLS]"
SPECIAL = frozenset({_BEGIN, "[ARGS]", "[CALL_ID]"})
"""Special tokens, which must stay in the text."""


def mistral() -> Marked:
    """Return a parser."""
    return Marked([_BEGIN], [], _Calls)


class _Calls:
    """An array, or a name: the first character tells."""

    def __init__(self) -> None:
        self._reader: Objects | NamedCall | None = None

    @property
    def ended(self) -> bool:
        return self._reader is not None and self._reader.ended

    @property
    def broken(self) -> bool:
        return self._reader is not None and self._reader.broken

    def add(self, character: str) -> None:
        if self._reader is None and not character.isspace():
            self._reader = Objects() if character in "[{" else NamedCall(["[ARGS]", "{"])
        if self._reader is not None:
            self._reader.add(character)

    def parts(self) -> list[CallPart]:
        return [] if self._reader is None else self._reader.parts()
