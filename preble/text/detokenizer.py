"""Text of a token stream, piece by piece, never half a character.

The Rust library's own DecodeStream is not used: it cannot be flushed at the end, and it keeps every id since the last
text it gave, so that a run of skipped special tokens or of malformed bytes costs the square of its length.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from preble.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
HELD_TOKENS = 16
"""How long an unfinished character is waited for, where bytes are not visible: it needs at most 4 tokens."""


class Detokenizer:
    """Turns the token ids of one sample into text as they come. The pieces together equal `tokenizer.decode(ids)`.

    Exact for byte-level vocabularies, malformed UTF-8 included. For others (SentencePiece, WordPiece) exact for ids
    that spell well-formed UTF-8; malformed bytes may come out as another number of replacement characters.
    Constant work per token.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._text = _ByteText(tokenizer) if tokenizer.byte_level else _WindowText(tokenizer)

    def add(self, ids: Sequence[int]) -> str:
        """Take the next ids and return the characters that are now complete, perhaps none."""
        if self._skip_special_tokens:
            ids = [token for token in ids if not self._tokenizer.is_special(token)]
        return self._text.add(ids) if ids else ""

    def finish(self) -> str:
        """Return what was held back, with replacement characters for bytes that stayed incomplete."""
        return self._text.finish()


class _ByteText:
    """For vocabularies whose ids are byte strings: an incremental UTF-8 decoder."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, ids: Sequence[int]) -> str:
        return self._utf8.decode(b"".join(map(self._token_bytes, ids)))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowText:
    """For all other decoders, where an id's text depends on its neighbours (a space in front, bytes of a character).

    Keeps the ids of the last piece as context, and returns by how much the text of context and new ids is longer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0

    def add(self, ids: Sequence[int]) -> str:
        # One at a time: a delta of several ids can begin and end inside characters every time.
        return "".join(map(self._step, ids))

    def _step(self, token: int) -> str:
        self._ids.append(token)
        known, text = self._decode(self._ids[: self._context]), self._decode(self._ids)
        unfinished = text.endswith(REPLACEMENT) or len(text) <= len(known)
        if unfinished and len(self._ids) - self._context < HELD_TOKENS:
            return ""
        del self._ids[: self._context]
        self._context = len(self._ids)
        return text[len(known) :]

    def finish(self) -> str:
        known, text = self._decode(self._ids[: self._context]), self._decode(self._ids)
        self._context = len(self._ids)
        return text[len(known) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
