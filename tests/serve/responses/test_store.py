"""Stored responses: bounded in number and in bytes, the longest unused forgotten first."""

from hypothesis import given
from hypothesis import strategies as st

from preble.serve.responses.store import Store


def put(store: Store, id: str, text: str = "") -> None:
    store.put({"id": id}, [{"role": "user", "content": text}])


def test_a_response_is_found_until_it_is_deleted() -> None:
    store = Store()
    put(store, "resp_1", "hello")
    stored = store.get("resp_1")
    assert stored is not None
    assert stored.response == b'{"id":"resp_1"}'
    assert b"hello" in stored.messages
    assert store.delete("resp_1")
    assert not store.delete("resp_1")
    assert store.get("resp_1") is None
    assert store.bytes == 0


def test_the_longest_unused_is_forgotten_first() -> None:
    store = Store(most=2)
    put(store, "a")
    put(store, "b")
    store.get("a")
    put(store, "c")
    assert store.get("b") is None
    assert store.get("a") is not None


def test_bytes_are_bounded_and_one_that_is_too_large_is_not_kept() -> None:
    store = Store(most_bytes=250)
    put(store, "a", "x" * 100)
    put(store, "b", "x" * 100)
    assert len(store) == 1
    put(store, "c", "x" * 400)
    assert len(store) == 0
    store.check()


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-1, 200))))
def test_the_bounds_hold_whatever_comes(steps: list[tuple[str, int]]) -> None:
    store = Store(most=3, most_bytes=400)
    for id, length in steps:
        if length < 0:
            store.delete(id)
        else:
            put(store, id, "x" * length)
        store.check()
