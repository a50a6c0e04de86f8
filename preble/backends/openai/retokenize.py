"""Token ids for servers that return text: the model's own tokenizer turns it into ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_ANCHOR = "\n"


class TextTokenizer(Protocol):
    """The part of a tokenizer that is needed here."""

    byte_level: bool

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of `text`."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`."""


def prompt_text(text: TextTokenizer, ids: Sequence[int]) -> str:
    """Return the text of a prompt, without the special tokens at its beginning that a server adds itself."""
    front = text.encode("")
    own = ids[len(front) :] if front and list(ids[: len(front)]) == front else ids
    return text.decode(own, skip_special_tokens=False)


class Retokenizer:
    """Turns pieces of text into ids with the same text, which need not be the ids that the model sampled."""

    def __init__(self, text: TextTokenizer) -> None:
        self._text = text
        self._anchor = [] if text.byte_level else text.encode(_ANCHOR, add_special_tokens=False)

    def ids(self, piece: str) -> list[int]:
        """Return the ids of the next piece."""
        if not piece:
            return []
        if self._anchor:
            # Vocabularies that put a space before the first word do so before the anchor.
            ids = self._text.encode(_ANCHOR + piece, add_special_tokens=False)
            if ids[: len(self._anchor)] == self._anchor:
                return ids[len(self._anchor) :]
        return self._text.encode(piece, add_special_tokens=False)
