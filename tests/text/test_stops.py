from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.text import StopStrings

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)
STREAM = st.lists(st.text("ab\nc", max_size=5), max_size=12)


def naive(text, stops, include, armed=0):
    """Grow the text one character at a time; end at the first stop string, the longest if several end there.

    What ends in the first `armed` characters does not count.
    """
    for end in range(armed + 1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end if include else end - len(stop)], stop
    return text, None


@given(deltas=STREAM, stops=STOPS, include=st.booleans())
def test_finds_what_a_naive_search_finds_however_the_stream_is_cut(deltas, stops, include):
    search, emitted, matched = StopStrings(stops, include=include), "", None
    for delta in deltas:
        piece, matched = search.feed(delta)
        search.check()
        emitted += piece
    assert (emitted + search.flush(), matched) == naive("".join(deltas), stops, include)
    search.check()


@given(deltas=STREAM, stops=STOPS, unarmed=st.integers(0, 12))
def test_what_ends_before_it_is_armed_is_no_match_and_nothing_is_lost(deltas, stops, unarmed):
    search, emitted, matched = StopStrings(stops), "", None
    for index, delta in enumerate(deltas):
        piece, matched = search.feed(delta, armed=index >= unarmed)
        search.check()
        emitted += piece
    whole = "".join(deltas)
    assert (emitted + search.flush(), matched) == naive(whole, stops, False, len("".join(deltas[:unarmed])))


@given(deltas=STREAM, stops=STOPS)
def test_holds_back_only_what_could_still_become_a_stop_string(deltas, stops):
    search, emitted, seen = StopStrings(stops), "", ""
    for delta in deltas:
        piece, matched = search.feed(delta)
        if matched is not None:
            return
        emitted, seen = emitted + piece, seen + delta
        beginnings = {stop[:size] for stop in stops for size in range(1, len(stop))}
        longest = max((size for size in range(len(seen) + 1) if seen[len(seen) - size :] in beginnings), default=0)
        assert emitted == seen[: len(seen) - longest]


@pytest.mark.parametrize(
    ("stops", "deltas", "pieces"),
    [
        (["STOP"], ["a S", "TO", "P b"], [("a ", None), ("", None), ("", "STOP")]),
        (["STOP"], ["a STO", "NE"], [("a ", None), ("STONE", None)]),
        (["aab"], ["aa", "a", "b"], [("", None), ("a", None), ("", "aab")]),
        (["abcd", "bc"], ["abc"], [("a", "bc")]),
        (["b", "ab"], ["xab"], [("x", "ab")]),
        ([], ["any"], [("any", None)]),
    ],
)
def test_cases(stops, deltas, pieces):
    search = StopStrings(stops)
    assert [search.feed(delta) for delta in deltas] == pieces


def test_after_a_match_the_rest_is_dropped():
    search = StopStrings(["."], include=True)
    assert search.feed("one. two") == ("one.", ".")
    assert search.feed("three.") == ("", ".")
    assert search.flush() == ""
    assert search.matched == "."


def test_flush_gives_what_was_held_and_starts_afresh():
    search = StopStrings(["end"])
    assert search.feed("the e") == ("the ", None)
    assert search.flush() == "e"
    assert search.feed("nd") == ("nd", None)


def test_long_stop_strings_that_almost_match_stay_linear():
    # Checking every beginning at every step would compare 4e9 characters here.
    search = StopStrings(["a" * 2000 + "b"])
    emitted = "".join(search.feed("a")[0] for _ in range(4000))
    assert emitted == "a" * 2000
