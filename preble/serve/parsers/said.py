"""What a parser makes of text, and what a parser is."""

from __future__ import annotations

from typing import Protocol

import msgspec


class CallPart(msgspec.Struct, frozen=True):
    """A part of the call of a tool. The first part of a call has its `name`; `arguments` are the next JSON text.

    `index` counts the calls of one answer from 0.
    """

    index: int
    name: str | None = None
    arguments: str = ""


class Said(msgspec.Struct, frozen=True):
    """What a piece of output says: `text` for the user, `reasoning`, and parts of `calls`, each perhaps empty."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPart, ...] = ()


class Parser(Protocol):
    """Reads the output of one sample as it comes. A new one is made for each sample.

    Broken calls come back as text, never as an exception. Text before a call is not held back longer than it may be
    the beginning of one.
    """

    def add(self, text: str) -> Said:
        """Take the next characters and return what is certain by now.

        Of special tokens, those that the format names are in the text. Other ones are not.
        """

    def finish(self) -> Said:
        """Return what was held back: the output has ended."""
