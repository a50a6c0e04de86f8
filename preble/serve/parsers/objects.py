"""Calls as JSON objects: `{"name": "f", "arguments": {...}}`, one or several."""

from __future__ import annotations

from preble.serve.parsers.json_text import CallObject
from preble.serve.parsers.said import CallPart


class OneObject:
    """One object."""

    def __init__(self, index: int = 0) -> None:
        """`index` is the number of the call."""
        self._index = index
        self._object = CallObject()
        self._named = False

    @property
    def ended(self) -> bool:
        """Whether the object is complete."""
        return self._object.ended

    @property
    def broken(self) -> bool:
        """Whether it cannot be a call any more."""
        return self._object.broken

    def add(self, character: str) -> None:
        """Take the next character."""
        self._object.add(character)

    def parts(self) -> list[CallPart]:
        """Return what came since. The first part has the name, and comes with the beginning of the arguments."""
        call = self._object
        if not self._named and not call.called and not (call.ended and not call.broken):
            return []
        arguments = call.take() if call.called else "{}"
        name, self._named = (None if self._named else call.name), True
        return [CallPart(self._index, name, arguments)] if name is not None or arguments else []


class Objects:
    """Objects one after the other, with commas or semicolons between them; a bracket that ends them, if any began."""

    def __init__(self) -> None:
        """Begin before the first one, or before a bracket."""
        self.ended = False
        self.broken = False
        self._array = False
        self._current: OneObject | None = None
        self._index = 0
        self._parts: list[CallPart] = []

    def add(self, character: str) -> None:
        """Take the next character."""
        if self._current is not None:
            self._inside(self._current, character)
        elif character == "{":
            self._current = OneObject(self._index)
            self._current.add(character)
        elif character == "[" and not self._array and self._index == 0:
            self._array = True
        elif character == "]" and self._array:
            self.ended = True
        elif character not in " \t\r\n,;":
            self.broken = True

    def parts(self) -> list[CallPart]:
        """Return what came since."""
        if self._current is not None:
            self._parts += self._current.parts()
        parts, self._parts = self._parts, []
        return parts

    def _inside(self, current: OneObject, character: str) -> None:
        current.add(character)
        self.broken = current.broken
        if current.ended or current.broken:
            self._parts += current.parts()
            self._current = None
            self._index += 1
