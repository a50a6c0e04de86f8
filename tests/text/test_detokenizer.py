from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preble.text import Detokenizer
from preble.text.detokenizer import HELD_TOKENS
from tests.text.conftest import BYTE_LEVEL_IDS, SENTENCE_PIECE_IDS

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" ab🙂👩‍👩‍👧漢字é\u0301\n")))
SAMPLES = [
    "",
    " ",
    "  two spaces",
    "👩‍👩‍👧‍👦 family, 漢字 and e\u0301",
    "end in a space ",
    "\n\n\tdef f():\n    return 🙂🙂🙂",
]


def stream(tokenizer, ids, sizes, **options):
    """Feed `ids` in deltas of the given sizes, over and over; return the pieces."""
    detokenizer, pieces, position, turn = Detokenizer(tokenizer, **options), [], 0, 0
    while position < len(ids):
        size = sizes[turn % len(sizes)]
        pieces.append(detokenizer.add(ids[position : position + size]))
        position, turn = position + size, turn + 1
    return [*pieces, detokenizer.finish()]


@given(data=st.data(), sizes=st.lists(st.integers(1, 5), min_size=1), skip=st.booleans())
def test_byte_level_pieces_join_to_the_decoded_ids_whatever_they_are(byte_level, data, sizes, skip):
    ids = data.draw(st.lists(st.integers(0, BYTE_LEVEL_IDS + 3), max_size=60))
    assert "".join(stream(byte_level, ids, sizes, skip_special_tokens=skip)) == byte_level.decode(
        ids, skip_special_tokens=skip
    )


@given(content=st.binary(max_size=40), sizes=st.lists(st.integers(1, 3), min_size=1))
@example(content="🙂漢é".encode()[:-1], sizes=[1])
@example(content=b"\xe4\xbd" * 20 + b"\xf0\x9f\x99A\xed\xa0\x80", sizes=[1])
def test_any_bytes_come_out_as_decoded_at_once(byte_level, content, sizes):
    ids = [single_byte_ids(byte_level)[byte] for byte in content]
    assert "".join(stream(byte_level, ids, sizes)) == byte_level.decode(ids) == content.decode("utf-8", "replace")


def single_byte_ids(tokenizer):
    return {spelled[0]: token for token in range(6, 262) if len(spelled := tokenizer.token_bytes(token)) == 1}


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
@pytest.mark.parametrize("text", SAMPLES)
def test_well_formed_text_never_shows_half_a_character(kind, text, request):
    tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode(text)
    pieces = stream(tokenizer, ids, [1])
    assert "".join(pieces) == tokenizer.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(text=TEXTS.filter(lambda text: "\ufffd" not in text), sizes=st.lists(st.integers(1, 4), min_size=1))
@example(text="aé" + "é" * 20, sizes=[2])
def test_sentence_piece_text_joins_to_the_decoded_ids(sentence_piece, text, sizes):
    ids = sentence_piece.encode(text)
    pieces = stream(sentence_piece, ids, sizes)
    assert "".join(pieces) == sentence_piece.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@given(data=st.data(), skip=st.booleans())
def test_sentence_piece_special_ids_are_skipped_or_shown_without_losing_spaces(sentence_piece, data, skip):
    whole = [token for token in range(259, SENTENCE_PIECE_IDS) if sentence_piece.decode([token])]
    ids = data.draw(st.lists(st.sampled_from([0, 1, 2, *whole[:20], *whole[-200:]]), max_size=40))
    assert "".join(stream(sentence_piece, ids, [1], skip_special_tokens=skip)) == sentence_piece.decode(
        ids, skip_special_tokens=skip
    )


def test_a_character_comes_with_its_last_byte(byte_level):
    detokenizer = Detokenizer(byte_level)
    ids = [single_byte_ids(byte_level)[byte] for byte in "é🙂".encode()]
    assert [detokenizer.add([token]) for token in ids] == ["", "é", "", "", "", "🙂"]
    assert detokenizer.finish() == ""


def test_an_incomplete_end_is_flushed_once(byte_level, sentence_piece):
    for tokenizer, ids in (
        (byte_level, [single_byte_ids(byte_level)[byte] for byte in b"a\xf0\x9f"]),
        (sentence_piece, sentence_piece.encode("a🙂")[:-2]),
    ):
        detokenizer = Detokenizer(tokenizer)
        assert detokenizer.add(ids[:-2]) + detokenizer.add(ids[-2:]) == "a"
        assert set(detokenizer.finish()) == {"\ufffd"}
        assert detokenizer.finish() == ""


class Counting:
    """The real tokenizer, counting the ids it decodes."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def decode(self, ids, **options):
        self.decoded += len(ids)
        return self.tokenizer.decode(ids, **options)


@pytest.mark.parametrize("repeated", ["text", "special", "malformed", "unknown"])
def test_work_grows_with_the_tokens_not_their_square(sentence_piece, repeated):
    invalid = sentence_piece.encode("🙂")[-1]
    ids = {"text": 300, "special": 1, "malformed": invalid, "unknown": 10_000}[repeated]
    tokenizer = Counting(sentence_piece)
    detokenizer = Detokenizer(tokenizer)
    for _ in range(1000):
        detokenizer.add([ids])
    detokenizer.finish()
    assert tokenizer.decoded <= 1000 * 4 * HELD_TOKENS


def test_malformed_bytes_do_not_hold_text_back_for_ever(sentence_piece):
    detokenizer = Detokenizer(sentence_piece)
    invalid = sentence_piece.encode("🙂")[-1]
    emitted = "".join(detokenizer.add([invalid]) for _ in range(10 * HELD_TOKENS))
    assert len(emitted) >= 8 * HELD_TOKENS
