"""Calls between markers: the loop that all formats of this kind share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from preble.serve.parsers.held import beginning, first
from preble.serve.parsers.said import CallPart, Said


class CallReader(Protocol):
    """Reads what follows a marker: a call, or several. After a character it may have ended, or be broken."""

    @property
    def ended(self) -> bool:
        """Whether it is complete."""

    @property
    def broken(self) -> bool:
        """Whether it cannot be a call any more."""

    def add(self, character: str) -> None:
        """Take the next character."""

    def parts(self) -> list[CallPart]:
        """Return what came since, with calls counted from 0."""


class Marked:
    """Text in which `markers` begin calls. What `closers` there are is not shown, nor are spaces before a marker."""

    def __init__(self, markers: Sequence[str], closers: Sequence[str], make: Callable[[], CallReader]) -> None:
        """`make` makes the reader of what follows a marker."""
        self._markers = markers
        self._all = (*markers, *closers)
        self._make = make
        self._text = ""
        self._reader: CallReader | None = None
        self._read: list[str] = []  # from the marker on, in case it is no call
        self._before = 0
        self._calls = 0
        self._words: list[str] = []
        self._parts: list[CallPart] = []

    def add(self, text: str) -> Said:
        """Take the next characters and return what is certain by now."""
        self._text += text
        while self._text and (self._plain() if self._reader is None else self._call(self._reader)):
            pass
        return self._said()

    def finish(self) -> Said:
        """Return what was held back: the output has ended."""
        if self._reader is None:
            self._words.append(self._text)
        elif self._calls == self._before:
            self._words += self._read
        self._text, self._reader = "", None
        return self._said()

    def _plain(self) -> bool:
        """Take text up to a marker, and return whether there was one."""
        at, marker = first(self._text, self._all)
        if at < 0:
            certain = len(self._text) - beginning(self._text, self._all)
            self._words.append(self._text[:certain])
            self._text = self._text[certain:]
            return False
        self._words.append(self._text[:at].rstrip())
        self._text = self._text[at + len(marker) :]
        if marker in self._markers:
            self._reader, self._read, self._before = self._make(), [marker], self._calls
        return True

    def _call(self, reader: CallReader) -> bool:
        """Read on in a call, and return whether it is over."""
        for count, character in enumerate(self._text):
            reader.add(character)
            if reader.ended or reader.broken:
                self._take(reader)
                self._text = self._text[count + (not reader.broken) :]  # what breaks it is text again
                if reader.broken and self._calls == self._before:
                    self._words += self._read
                self._reader = None
                return True
            self._read.append(character)
        self._text = ""
        self._take(reader)
        return False

    def _take(self, reader: CallReader) -> None:
        for part in reader.parts():
            self._parts.append(CallPart(self._before + part.index, part.name, part.arguments))
            self._calls = max(self._calls, self._before + part.index + 1)

    def _said(self) -> Said:
        said = Said("".join(self._words), "", tuple(self._parts))
        self._words, self._parts = [], []
        return said
