from __future__ import annotations

import struct
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preble.errors import InvalidRequestError
from preble.tokens import MAX_TOKENS, TOKEN_BYTES, highest, pack, pack_integers, unpack

ids = st.lists(st.integers(0, 2**31 - 1), max_size=50)

FORMS = {
    "list": list,
    "tuple": tuple,
    "list of numpy integers": lambda tokens: list(np.array(tokens, dtype=np.int64)),
    "array of int": lambda tokens: array("i", tokens),
    "array of long": lambda tokens: array("q", tokens),
    "bytes": lambda tokens: struct.pack(f"<{len(tokens)}i", *tokens),
    "bytearray": lambda tokens: bytearray(struct.pack(f"<{len(tokens)}i", *tokens)),
    "memoryview of bytes": lambda tokens: memoryview(struct.pack(f"<{len(tokens)}i", *tokens)),
    "memoryview of int": lambda tokens: memoryview(array("i", tokens)),
    "numpy int32": lambda tokens: np.array(tokens, dtype=np.int32),
    "numpy int64": lambda tokens: np.array(tokens, dtype=np.int64),
    "numpy uint32": lambda tokens: np.array(tokens, dtype=np.uint32),
}


class Odd:
    """A sequence of one's own."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return (5, 6, 7)[index]


@pytest.mark.skipif(pack_integers([1]) is None, reason="no extension, no compiler: see tests/test_extensions.py")
@given(
    tokens=st.lists(st.one_of(st.integers(-(2**70), 2**70), st.integers(-9, 9), st.booleans(), st.floats(), st.none()))
)
def test_the_extension_takes_ints_of_32_bits_and_nothing_else(tokens: list[Any]):
    fits = all(type(token) is int and -(2**31) <= token < 2**31 for token in tokens)
    expected = struct.pack(f"<{len(tokens)}i", *tokens) if fits else None
    assert pack_integers(tokens) == pack_integers(tuple(tokens)) == expected
    assert pack_integers(iter(tokens)) is None


@pytest.fixture(params=["extension", "struct"])
def either_way(request: pytest.FixtureRequest):
    """Packing with the extension, and as it is without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "struct":
            patch.setattr("preble.tokens.pack_integers", lambda tokens: None)
        yield


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("form", FORMS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=ids)
def test_every_form_packs_to_the_same_bytes(form: str, tokens: list[int]):
    assert pack(FORMS[form](tokens)) == struct.pack(f"<{len(tokens)}i", *tokens)


def test_int16_arrays_are_widened():
    assert pack(np.array([1, 2, 3], dtype=np.int16)) == pack([1, 2, 3])


@pytest.mark.parametrize("tokens", [range(5, 8), Odd()])
def test_other_sequences_pack_too(tokens: Any):
    assert unpack(pack(tokens)) == (5, 6, 7)


def test_bytes_are_not_copied():
    packed = pack([1, 2, 3])
    assert pack(packed) is packed


def test_what_can_change_is_copied():
    source = bytearray(pack([1, 2, 3]))
    packed = pack(source)
    source[0] = 9
    assert unpack(packed) == (1, 2, 3)


def test_little_endian_int32():
    assert pack([1, 256, 2**31 - 1]) == b"\x01\0\0\0\0\x01\0\0\xff\xff\xff\x7f"
    assert TOKEN_BYTES == 4


@given(ids)
def test_unpack_undoes_pack(tokens: list[int]):
    assert unpack(pack(tokens)) == tuple(tokens)


BAD = {
    "text": "abc",
    "floats": [1.5],
    "none": None,
    "a number": 7,
    "none inside": [1, None],
    "nested": [[1], [2]],
    "too large": [2**31],
    "far too large": [2**100],
    "too large in an array": np.array([2**31], dtype=np.int64),
    "half a token": b"abcde",
    "half a token in a bytearray": bytearray(3),
    "float array": np.array([1.0]),
    "object array": np.array([1, None], dtype=object),
    "big-endian array": np.array([1], dtype=">i4"),
    "two dimensions": np.zeros((2, 2), dtype=np.int32),
    "no dimension": np.array(7, dtype=np.int32),
    "strided": np.arange(8, dtype=np.int32)[::2],
    "too many": bytes(TOKEN_BYTES * (MAX_TOKENS + 1)),
}


@pytest.mark.parametrize("case", BAD)
def test_anything_else_is_refused_by_name(case: str):
    with pytest.raises(InvalidRequestError, match=r"^prompt: ") as caught:
        pack(BAD[case], field="prompt")
    assert caught.value.field == "prompt"


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1))
def test_highest_is_the_maximum(tokens: list[int]):
    assert highest(pack(tokens)) == max(tokens)


def test_highest_of_nothing_is_below_every_id():
    assert highest(b"") == -1


def test_a_negative_id_is_higher_than_any_vocabulary():
    assert highest(pack([5, -1])) == 2**32 - 1
    assert highest(pack(np.array([-(2**31)], dtype=np.int32))) == 2**31


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_arrays_of_bytes_hold_small_ids_and_nothing_packed(kind):
    assert unpack(pack(np.array([1, 2, 3, 4], dtype=kind))) == (1, 2, 3, 4)
