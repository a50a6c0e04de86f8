from __future__ import annotations

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
