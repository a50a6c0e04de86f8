"""Token ids for servers that return text: the model's own tokenizer turns it into ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_ANCHORS = ("\n", "\x01", "a")


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
    """Turns pieces of text into ids with the same text, which need not be the ids that the model sampled.

    Most vocabularies that are not byte-level put a space before the first word of a text. A piece follows other text,
    so it is tokenized behind an anchor, whose ids are then left out: one with which it does not merge.
    """

    def __init__(self, text: TextTokenizer) -> None:
        self._text = text
        plain = text.byte_level and text.decode(self._encode("a")) == "a"
        self._anchors = [] if plain else [(anchor, self._encode(anchor)) for anchor in _ANCHORS]

    def ids(self, piece: str) -> list[int]:
        """Return the ids of the next piece."""
        if not piece:
            return []
        for anchor, front in self._anchors:
            ids = self._encode(anchor + piece)
            if ids[: len(front)] == front:
                return ids[len(front) :]
        return self._encode(piece)

    def _encode(self, text: str) -> list[int]:
        return self._text.encode(text, add_special_tokens=False)
