"""An output that is held to the form of a call: the whole text is one, without marks around it."""

from __future__ import annotations

from preble.serve.parsers.objects import OneObject
from preble.serve.parsers.said import Said


class OneCall:
    """Reads `{"name": ..., "arguments": ...}`. Text that ends before it names a tool comes back as text."""

    def __init__(self) -> None:
        """Begin before the call."""
        self._call = OneObject()
        self._held: list[str] = []
        self._called = False

    def add(self, text: str) -> Said:
        """Take the next characters and return what is certain by now."""
        for character in text:
            if not (self._call.ended or self._call.broken):
                self._call.add(character)
        parts = tuple(self._call.parts())
        self._called = self._called or bool(parts)
        self._held = [] if self._called else [*self._held, text]
        return Said(calls=parts)

    def finish(self) -> Said:
        """Return what was held back: the output has ended."""
        return Said("".join(self._held))
