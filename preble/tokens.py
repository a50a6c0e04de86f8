"""Token ids as packed little-endian int32: one form for the tree's keys and the wire's bodies."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Any, TypeAlias, Union, cast

import numpy as np
from numpy.typing import NDArray

from preble.errors import InvalidRequestError

try:
    from preble._pack import pack_integers
except ImportError:  # built without a compiler

    def pack_integers(tokens: Sequence[int], /) -> bytes | None:
        """Leave it to `struct`."""
        return None


TOKEN_BYTES = 4
MAX_TOKENS = 4 << 20
"""Upper bound on the tokens of one sequence, here and on the wire."""
FIRST_TEXT_ID = 1 << 30
"""Ids from here on are of no vocabulary: they stand for pieces of text where the tokens are not known."""

_MAX_BYTES = MAX_TOKENS * TOKEN_BYTES

_UNSIGNED = np.dtype("<u4")

TokenInput: TypeAlias = Union[Sequence[int], bytes, bytearray, memoryview, "array[int]", NDArray[np.int32]]
"""What callers may pass as token ids. Bytes-like objects hold little-endian int32."""


def pack(tokens: TokenInput, *, field: str = "tokens") -> bytes:
    """Return `tokens` as little-endian int32 bytes; `bytes` come back as the same object.

    Raises InvalidRequestError for anything that is not a sequence of 32-bit integers.
    Whether they are ids of a vocabulary is for `highest` to tell.
    """
    if isinstance(tokens, bytes):
        packed = tokens
    elif isinstance(tokens, (array, np.ndarray)) and tokens.itemsize == 1:  # small ids, not packed ones
        packed = _pack_sequence(tokens.tolist(), field)
    elif isinstance(tokens, (array, np.ndarray, bytearray, memoryview)):
        packed = _pack_buffer(memoryview(cast(Any, tokens)), field)
    else:
        packed = _pack_sequence(tokens, field)
    if len(packed) % TOKEN_BYTES:
        raise InvalidRequestError("length is not a multiple of 4 bytes", field=field)
    if len(packed) > _MAX_BYTES:
        raise InvalidRequestError(f"more than {MAX_TOKENS} tokens", field=field)
    return packed


def _pack_sequence(tokens: Sequence[int], field: str) -> bytes:
    packed = pack_integers(tokens)
    if packed is not None:
        return packed
    try:  # another kind of sequence, or ids of which `struct` says what is wrong
        return struct.Struct(f"<{len(tokens)}i").pack(*tokens)  # `struct.pack` would copy all arguments once more
    except (struct.error, TypeError) as error:
        raise InvalidRequestError(f"not a sequence of 32-bit token ids ({error})", field=field) from None


def _pack_buffer(view: memoryview, field: str) -> bytes:
    if not view.c_contiguous or view.ndim != 1:
        raise InvalidRequestError("needs a one-dimensional contiguous buffer", field=field)
    if view.format in ("B", "b", "c") or (view.format in ("i", "<i", "l") and view.itemsize == 4):
        if view.itemsize == 4 and sys.byteorder != "little":
            return np.frombuffer(view, dtype=np.int32).astype("<i4").tobytes()
        return view.tobytes()
    if view.format in ("l", "q", "I", "<q", "<I", "h", "H", "L", "Q"):
        return _pack_sequence(view.tolist(), field)
    raise InvalidRequestError(f"unsupported element format {view.format!r}, want int32", field=field)


def unpack(packed: bytes) -> tuple[int, ...]:
    """Return packed token ids as a tuple of ints."""
    return struct.unpack(f"<{len(packed) // TOKEN_BYTES}i", packed)


def highest(packed: bytes) -> int:
    """Return the highest id of `packed` read as unsigned, so that a negative id is above 2**31; -1 if empty."""
    if not packed:
        return -1
    ids = np.frombuffer(packed, _UNSIGNED)
    return ids.item(ids.argmax())  # half the time of `max` for a short prompt
