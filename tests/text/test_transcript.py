from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.text import Transcript


@given(cuts=st.lists(st.integers(1, 5), max_size=30))
def test_the_sample_ends_at_the_token_that_completes_the_stop_however_tokens_arrive(byte_level, cuts):
    ids = byte_level.encode("one two three four five six seven", add_special_tokens=False)
    transcript = Transcript(byte_level, ("three",), include_stop=False)
    text, start = "", 0
    for size in [*cuts, len(ids)]:
        text += transcript.add(ids[start : start + size])
        start += size
    assert (text, transcript.matched) == ("one two ", "three")
    assert byte_level.decode(ids[: transcript.used]).startswith("one two three")
    assert not byte_level.decode(ids[: transcript.used - 1]).startswith("one two three")


def test_without_stops_all_tokens_are_used(byte_level):
    ids = byte_level.encode("one two three", add_special_tokens=False)
    transcript = Transcript(byte_level, (), include_stop=False)
    assert transcript.add(ids) + transcript.finish() == "one two three"
    assert transcript.used == len(ids)


def test_a_stop_inside_a_character_that_is_not_whole_yet_waits_for_it(byte_level):
    ids = byte_level.encode("ab\N{GRINNING FACE}cd", add_special_tokens=False)
    transcript = Transcript(byte_level, ("\N{GRINNING FACE}",), include_stop=True)
    shown = "".join(transcript.add([id]) for id in ids)
    assert shown == "ab\N{GRINNING FACE}"


def test_an_answer_keeps_the_space_before_its_first_word(sentence_piece):
    prompt = sentence_piece.encode("The text is", add_special_tokens=False)
    ids = sentence_piece.encode("The text is an error", add_special_tokens=False)[len(prompt) :]
    transcript = Transcript(sentence_piece, (), include_stop=False, prompt=[1, *prompt, 2])
    assert transcript.add(ids) + transcript.finish() == " an error"
    without = Transcript(sentence_piece, (), include_stop=False, prompt=[1])
    assert without.add(ids) + without.finish() == "an error"


def test_a_stop_string_counts_once_min_tokens_are_passed(byte_level):
    ids = byte_level.encode("one two one two one two", add_special_tokens=False)
    ends = [byte_level.decode(ids[: size + 1]).rstrip() for size in range(len(ids))]
    first, second = (next(n for n, end in enumerate(ends, 1) if end.count("two") == count) for count in (1, 2))
    for least, used in ((0, first), (first - 1, first), (first, second), (second, len(ids))):
        transcript = Transcript(byte_level, ("two",), include_stop=False, min_tokens=least)
        text = transcript.add(ids)
        assert transcript.used == used
        assert byte_level.decode(ids[:used]).startswith(text + "two")


def test_a_stop_string_that_begins_among_the_min_tokens_may_end_after_them(byte_level):
    ids = byte_level.encode("one two three", add_special_tokens=False)
    transcript = Transcript(byte_level, ("one two three",), include_stop=False, min_tokens=len(ids) - 1)
    assert (transcript.add(ids), transcript.matched) == ("", "one two three")


@pytest.mark.parametrize("stop", ["<|assistant|>", "ine<|assistant|>", "<|assistant|> and"])
@pytest.mark.parametrize("include", [False, True])
def test_special_tokens_count_in_stop_strings_though_they_are_not_shown(byte_level, stop, include):
    special = byte_level.special_tokens()
    ids = [special["<|user|>"], *byte_level.encode("fine", add_special_tokens=False), special["<|assistant|>"]]
    ids += byte_level.encode(" and junk", add_special_tokens=False)
    transcript = Transcript(byte_level, ("<|end|>", stop), include_stop=include)
    text = transcript.add(ids) + transcript.finish()
    assert transcript.matched == stop
    assert text == "fine"[: -3 if stop.startswith("ine") else None] + (stop if include else "")


@pytest.mark.parametrize(
    ("stops", "text"), [((), "<|user|>fine<|assistant|> so"), (("ine<|assistant|>",), "<|user|>f")]
)
def test_special_tokens_are_shown_if_asked_for(byte_level, stops, text):
    special = byte_level.special_tokens()
    ids = [special["<|user|>"], *byte_level.encode("fine", add_special_tokens=False), special["<|assistant|>"]]
    ids += byte_level.encode(" so", add_special_tokens=False)
    transcript = Transcript(byte_level, stops, include_stop=False, skip_special_tokens=False)
    assert transcript.add(ids) + transcript.finish() == text


def test_special_tokens_that_only_begin_a_stop_string_are_not_shown(byte_level):
    special = byte_level.special_tokens()
    ids = [*byte_level.encode("a", add_special_tokens=False), special["<|user|>"]]
    transcript = Transcript(byte_level, ("<|user|> never",), include_stop=True)
    assert transcript.add(ids) + transcript.finish() == "a"
