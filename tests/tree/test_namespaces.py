from __future__ import annotations

import pytest

from preble.tokens import pack
from preble.tree.namespaces import Namespaces, cache_salt, negative


@pytest.fixture
def used() -> set[bytes]:
    return set()


@pytest.fixture
def namespaces(used: set[bytes]):
    made = Namespaces(used.__contains__)
    yield made
    made.check()


def test_without_a_salt_the_key_is_the_prompt(namespaces: Namespaces):
    tokens = pack([1, 2])
    assert namespaces.key("", tokens) is tokens
    assert namespaces.prompt(tokens) == ("", tokens)
    assert namespaces.prompt(b"") == ("", b"")


def test_a_key_differs_in_its_first_token_only(namespaces: Namespaces):
    key = namespaces.key("a", pack([1, 2]))
    assert negative(key)
    assert key[4:] == pack([2])
    assert namespaces.prompt(key) == ("a", pack([1, 2]))
    assert namespaces.prompt(key[:4]) == ("a", pack([1]))


def test_a_key_is_for_one_salt_and_first_token(namespaces: Namespaces, used: set[bytes]):
    for salt, first in [("a", 1), ("a", 2), ("b", 1), ("b", 2)]:
        used.add(namespaces.key(salt, pack([first])))
    assert len(used) == 4
    assert namespaces.known("a", pack([1, 7])) == namespaces.key("a", pack([1, 9]))[:4] + pack([7])


def test_what_is_not_known_has_no_key(namespaces: Namespaces):
    assert namespaces.known("a", pack([1])) is None
    assert namespaces.known("", pack([1])) == pack([1])
    assert namespaces.known("a", b"") == b""


def test_what_is_in_use_stays_and_the_rest_is_forgotten(namespaces: Namespaces, used: set[bytes]):
    kept: dict[str, bytes] = {}
    for salt in "xyz":
        kept[salt] = namespaces.key(salt, pack([1]))
        used.add(kept[salt])
    for number in range(100):
        namespaces.key(f"passing {number}", pack([1]))
        assert len(namespaces) <= 2 * len(kept) + 2
    assert {salt: namespaces.key(salt, pack([1])) for salt in "xyz"} == kept


def test_numbers_are_not_given_again_soon(namespaces: Namespaces):
    assert len({namespaces.key(f"{number}", pack([1])) for number in range(100)}) == 100


def test_numbers_begin_again_at_the_end_leaving_out_those_in_use(
    monkeypatch: pytest.MonkeyPatch, namespaces: Namespaces, used: set[bytes]
):
    monkeypatch.setattr("preble.tree.namespaces._LOWEST", -2)
    first = namespaces.key("first", pack([1]))
    used.add(first)
    assert first == pack([-1])
    assert [namespaces.key(salt, pack([1])) for salt in ("next", "then")] == [pack([-2]), pack([-2])]


@pytest.mark.parametrize(("namespace", "tenant"), [("a", ""), ("", "a"), ("1:", "a"), ("", "1:a")])
def test_a_fold_tells_namespace_and_tenant_apart(namespace: str, tenant: str):
    others = [("a", ""), ("", "a"), ("1:", "a"), ("", "1:a")]
    assert sum(cache_salt(*other) == cache_salt(namespace, tenant) for other in others) == 1
