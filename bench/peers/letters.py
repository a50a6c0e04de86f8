"""Token ids as text, four letters each, so that a tree of characters and a cache of tokens see the same prefixes."""

from __future__ import annotations

import numpy as np

LETTERS_PER_TOKEN = 4
VOCABULARY = 16**LETTERS_PER_TOKEN

_SHIFTS = np.arange(LETTERS_PER_TOKEN, dtype=np.int32)[::-1] * 4
_FIRST = ord("a")


def to_text(tokens: bytes) -> str:
    """Return packed int32 token ids below VOCABULARY as the letters a to p, the highest four bits first."""
    digits = np.frombuffer(tokens, "<i4")[:, None] >> _SHIFTS & 15
    return (digits + _FIRST).astype(np.uint8).tobytes().decode("ascii")


def to_tokens(text: str) -> bytes:
    """Return the packed int32 token ids of such a text. Raises ValueError for any other."""
    letters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int32) - _FIRST
    if len(letters) % LETTERS_PER_TOKEN or not ((letters >= 0) & (letters < 16)).all():
        raise ValueError("not token ids as four letters each, from a to p")
    tokens = (letters.reshape(-1, LETTERS_PER_TOKEN) << _SHIFTS).sum(axis=1)
    return bytes(tokens.astype("<i4").tobytes())
