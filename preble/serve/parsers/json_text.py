"""JSON as it comes, character by character: where a value ends, and the two members of a call."""

from __future__ import annotations

import json
from collections.abc import Collection

_SPACE = " \t\r\n"
_NAME = ("name",)
_ARGUMENTS = ("arguments", "parameters")


class Value:
    """Finds the end of one JSON value. It does not check what is inside brackets, but that they match and end."""

    def __init__(self) -> None:
        """Begin before the value."""
        self.ended = False
        self._closers: list[str] = []
        self._quoted = False
        self._escaped = False
        self._begun = False

    def add(self, character: str) -> bool:
        """Take a character, and return whether it belongs to the value. One that does not ends a number or a word."""
        if self._quoted:
            self._in_text(character)
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._closers.append("}" if character == "{" else "]")
        elif character in "}],":
            return self._close(character)
        elif character in _SPACE and self._begun and not self._closers:
            self.ended = True
            return False
        self._begun = True
        return True

    def _in_text(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._quoted = False
            self.ended = not self._closers

    def _close(self, character: str) -> bool:
        if character == ",":
            self.ended = not self._closers
            return bool(self._closers)
        if not self._closers or self._closers[-1] != character:
            self.ended = True
            return False
        self._closers.pop()
        self.ended = not self._closers
        return True


class CallObject:
    """Reads one object such as `{"name": "f", "arguments": {...}}`, whose members come in any order.

    `name` is None until it is known. `take` returns the text of the arguments that came since.
    """

    def __init__(self) -> None:
        """Begin before the opening brace."""
        self.name: str | None = None
        self.ended = False
        self.broken = False
        self._state = self._before
        self._key: list[str] = []
        self._value = Value()
        self._text: list[str] = []
        self._arguments: list[str] = []
        self._given = False

    def add(self, character: str) -> None:
        """Take a character. Then it may have `ended`, or be `broken`."""
        self._state(character)

    def take(self) -> str:
        """Return the text of the arguments that came since the last call, nothing before the name is known."""
        if self.name is None:
            return ""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    @property
    def called(self) -> bool:
        """Whether the name is known and the arguments have begun."""
        return self.name is not None and self._given

    def _before(self, character: str) -> None:
        if character == "{":
            self._state = self._between
        elif character not in _SPACE:
            self.broken = True

    def _between(self, character: str) -> None:
        if character == '"':
            self._key, self._value, self._state = [character], Value(), self._in_key
            self._value.add(character)
        elif character == "}":
            self.ended = True
            self.broken = self.name is None
        elif character not in _SPACE and character != ",":
            self.broken = True

    def _in_key(self, character: str) -> None:
        self._key.append(character)
        self._value.add(character)
        if self._value.ended:
            self._state = self._before_colon

    def _before_colon(self, character: str) -> None:
        if character == ":":
            self._value, self._text, self._state = Value(), [], self._before_value
        elif character not in _SPACE:
            self.broken = True

    def _before_value(self, character: str) -> None:
        if character not in _SPACE:
            self._state = self._in_value
            self._in_value(character)

    def _in_value(self, character: str) -> None:
        mine = self._value.add(character)
        if mine:
            self._take(character)
        if self._value.ended:
            self._end_of_value()
            self._state = self._between
            if not mine:
                self._between(character)

    def _take(self, character: str) -> None:
        self._text.append(character)
        if self._is(_ARGUMENTS) and self._text[0] != '"':
            self._given = True
            self._arguments.append(character)

    def _end_of_value(self) -> None:
        if not self._text or self._text[0] != '"':
            self.broken = self.broken or self._is(_NAME) or not self._text
            return
        value = _decoded("".join(self._text))
        if value is None:
            self.broken = True
        elif self._is(_NAME):
            self.name = value
        elif self._is(_ARGUMENTS):  # the arguments' JSON, as a text
            self._given = True
            self._arguments.append(value)

    def _is(self, names: Collection[str]) -> bool:
        return "".join(self._key).strip('"') in names


def _decoded(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
