"""Calls whose name stands before their arguments, with a separator between them."""

from __future__ import annotations

from collections.abc import Sequence

from preble.serve.parsers.json_text import Value
from preble.serve.parsers.said import CallPart

_LONGEST = 256
"""Characters of a name and its separator; what is longer is no call."""


class NamedCall:
    """`name`, one of the `separators`, and a JSON object.

    Where `kind` stands in place of the name, the name is in a line of its own.
    """

    def __init__(self, separators: Sequence[str], kind: str | None = None) -> None:
        """Begin before the name."""
        self.ended = False
        self.broken = False
        self._separators = separators
        self._kind = kind
        self._head = ""
        self._name: str | None = None
        self._told = False
        self._value = Value()
        self._arguments: list[str] = []
        self._begun = False

    def add(self, character: str) -> None:
        """Take the next character."""
        if self._name is None:
            self._in_head(character)
        elif self._begun or character == "{":
            self._in_value(character)
        elif character not in " \t\r\n`json":  # a fence may stand before the arguments
            self.broken = True

    def parts(self) -> list[CallPart]:
        """Return what came since."""
        if not self._arguments:
            return []
        name, self._told = (None if self._told else self._name), True
        arguments, self._arguments = "".join(self._arguments), []
        return [CallPart(0, name, arguments)]

    def _in_head(self, character: str) -> None:
        self._head += character
        ending = next((each for each in self._separators if self._head.endswith(each)), None)
        if ending is not None:
            self._end_head(self._head[: -len(ending)].strip(), ending)
        elif len(self._head) > _LONGEST:
            self.broken = True

    def _end_head(self, name: str, ending: str) -> None:
        if name == self._kind:
            self._head, self._separators, self._kind = "", ["\n"], None
        elif not name:
            self.broken = True
        else:
            self._name = name
            if ending == "{":
                self._in_value(ending)

    def _in_value(self, character: str) -> None:
        self._begun = True
        if self._value.add(character):
            self._arguments.append(character)
        else:
            self.broken = True
        self.ended = self._value.ended and not self.broken
