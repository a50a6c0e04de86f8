from __future__ import annotations

import tracemalloc

import pytest

from preble.backends.openai.sse import EventStream
from preble.errors import EngineError

STREAM = (
    b": a comment\n\n"
    b'data: {"a": 1}\n\n'
    b"event: message\r\nid: 7\r\ndata:two\r\ndata: lines\r\n\r\n"
    b"retry: 5\n\n\n"
    b'error: {"code": 500}\n\n'
    b"data\n\ndatum: 3\n\n"
    b"data: [DONE]\n\n"
    b"data: unfinished\n"
)
EVENTS = [b'{"a": 1}', b"two\nlines", b'{"code": 500}', b"[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_events_come_out_however_the_bytes_are_cut(size: int):
    stream, events = EventStream(), []
    for start in range(0, len(STREAM), size):
        events += stream.feed(STREAM[start : start + size])
    assert events == EVENTS


@pytest.mark.parametrize("endless", [b"data: " + b"x" * 60, b"x" * 60, b"data: 0123456789\n" * 6])
def test_an_event_without_end_is_an_error(endless: bytes):
    with pytest.raises(EngineError, match="more than 50 bytes"):
        EventStream(limit=50).feed(endless)


def test_many_events_may_be_longer_together():
    assert len(EventStream(limit=50).feed(b"data: 0123456789\n\n" * 100)) == 100


def test_what_came_of_a_long_event_is_not_copied_with_every_piece():
    stream = EventStream()
    stream.feed(b"data: " + b"x" * (8 << 20))
    stream.feed(b"y")
    tracemalloc.start()
    try:
        for _ in range(100):
            assert stream.feed(b"y") == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    (event,) = stream.feed(b"\n\n")
    assert len(event) == (8 << 20) + 101
