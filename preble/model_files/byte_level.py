"""Tokens as byte-level vocabularies spell them, and the bytes that they stand for."""

from __future__ import annotations


def _byte_characters() -> dict[str, int]:
    # GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


_BYTE_OF = _byte_characters()


def bytes_of(token: str) -> bytes:
    """Return the bytes of a token; of one that was added, and is spelled as it is, those of its text."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()
