"""From a stream of token ids to text, in pieces of whole characters.

The Rust library's own DecodeStream is not used for two reasons. It cannot be flushed at the end, and it keeps every id
since the last text it returned, so that a run of skipped special tokens or malformed bytes takes quadratic time.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import product

from preble.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
HELD_TOKENS = 16
"""The most tokens that are held for an unfinished character in a vocabulary that is not byte-level; it needs 4."""

CHARACTER_TOKENS = 4
"""The most tokens that one character takes."""

CONTEXT_TOKENS, SEARCHED_TOKENS = 8, 64
"""How many tokens of the prompt's end decide what the first ones after it add, and among how many they are looked for.
"""


class Detokenizer:
    """Turns the token ids of one sample into text as they come. The pieces together equal `tokenizer.decode(ids)`.

    With a `prompt` they are what the ids add to its text: a vocabulary of SentencePiece leaves out the space before the
    first word of a text, but not before that of an answer. Where the prompt ends within a character, the first piece
    has the whole of it.

    That is exact for byte-level vocabularies, also for malformed UTF-8. For others (SentencePiece, WordPiece) it is
    exact for ids that spell well-formed UTF-8; malformed bytes may become another number of replacement characters. The
    time for each token is constant.
    """

    def __init__(self, tokenizer: Tokenizer, *, prompt: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        before = self._shown(prompt[-SEARCHED_TOKENS:])[-CONTEXT_TOKENS:]
        self._text = _ByteText(tokenizer, before) if tokenizer.byte_level else _WindowText(tokenizer, before)

    def add(self, ids: Sequence[int]) -> str:
        """Take the next ids and return the characters that are now complete, perhaps none."""
        ids = self._shown(ids)
        return self._text.add(ids) if ids else ""

    def _shown(self, ids: Sequence[int]) -> Sequence[int]:
        if not self._skip_special_tokens:
            return ids
        return [token for token in ids if not self._tokenizer.is_special(token)]

    def finish(self) -> str:
        """Return the text that was held, with replacement characters for incomplete bytes."""
        return self._text.finish()


class _ByteText:
    """For vocabularies whose ids are byte strings: an incremental UTF-8 decoder."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.add(before)  # only an unfinished character at its end is left of it

    def add(self, ids: Sequence[int]) -> str:
        return self._utf8.decode(b"".join(map(self._token_bytes, ids)))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowText:
    """For all other decoders, where an id's text depends on its neighbours (a space in front, bytes of a character).

    Keeps the ids of the last piece as context, and returns by how much the text of context and new ids is longer.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids, self._context = self._cut(before)

    def add(self, ids: Sequence[int]) -> str:
        # Ids are taken one at a time, because every delta of several may begin and end within a character.
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

    def _cut(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """Return `ids` without the end of a character in front, and how many of them spell whole characters."""
        for start, end in product(range(CHARACTER_TOKENS), repeat=2):
            whole = ids[start : len(ids) - end]
            if REPLACEMENT not in self._decode(whole):
                return list(ids[start:]), len(whole)
        return list(ids), len(ids)

    def finish(self) -> str:
        known, text = self._decode(self._ids[: self._context]), self._decode(self._ids)
        self._context = len(self._ids)
        return text[len(known) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
