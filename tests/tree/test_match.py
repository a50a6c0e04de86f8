from __future__ import annotations

import pytest

from preble.errors import StateError
from preble.tokens import pack


def test_match_changes_nothing(tree):
    node = tree.insert(pack([1, 2, 3, 4]), 0)
    for tokens in ([1, 2, 7], [8], [1, 2]):
        tree.insert(pack(tokens), 1, pin=False, computed=True)
    first = tree.match(pack([1, 2, 7]))
    before = [tree.nodes, tree.tokens, tree.pins(0), list(tree.victims(1, 9))]
    for tokens in ([], [1], [1, 2], [1, 2, 3, 9], [1, 2, 7, 8], [5]):
        match = tree.match(pack(tokens))
        match.length(0), match.computed_length(1), match.stale
    assert not first.stale
    assert [tree.nodes, tree.tokens, tree.pins(0), list(tree.victims(1, 9))] == before
    tree.unpin(node, 0)


def test_levels_lose_workers_with_depth(tree):
    tree.insert(pack([1, 2, 3, 4, 5, 6]), 0)
    tree.insert(pack([1, 2, 3, 4]), 1)
    tree.insert(pack([1, 2]), 2)
    tree.insert(pack([1, 2, 9]), 2)
    match = tree.match(pack([1, 2, 3, 4, 5, 0]))
    assert match.levels == [(2, 0b111), (4, 0b011), (5, 0b001)]
    assert [match.length(worker) for worker in range(4)] == [5, 4, 2, 0]
    assert match.tokens == 5


def test_equal_masks_are_one_level(tree):
    tree.insert(pack([1, 2, 3, 4]), 0)
    tree.insert(pack([1, 2, 9]), 0)
    assert tree.nodes == 3
    assert tree.match(pack([1, 2, 3, 4])).levels == [(4, 1)]


def test_computed_length_leaves_out_what_is_in_flight(tree):
    tree.insert(pack([1, 2]), 0, computed=True)
    tree.insert(pack([1, 2, 3, 4]), 0)
    match = tree.match(pack([1, 2, 3, 4, 5]))
    assert (match.length(0), match.computed_length(0)) == (4, 2)
    assert tree.match(pack([1, 9])).computed_length(0) == 1
    assert match.computed_length(1) == 0


def test_only_whole_blocks_match(new_tree):
    tree = new_tree(block_size=4)
    tree.insert(pack(range(11)), 0)
    assert tree.tokens == 8
    assert tree.match(pack(range(11))).tokens == 8
    assert tree.match(pack(range(7))).tokens == 4
    assert tree.match(pack(range(3))).tokens == 0
    assert tree.match(pack([0, 1, 2, 3, 4, 5, 6, 99])).tokens == 4


def test_nothing_matches_nothing(tree):
    match = tree.match(pack([1, 2]))
    assert (match.tokens, match.levels, match.length(0), match.computed_length(0)) == (0, [], 0, 0)
    assert not match.payload()


def test_stale_match_keeps_lengths_but_is_no_cursor(tree):
    tokens = pack([1, 2, 3, 4])
    tree.insert(tokens, 0)
    match = tree.match(tokens)
    assert not match.stale
    tree.insert(pack([1, 2, 9]), 1)
    assert match.stale
    assert match.length(0) == 4
    with pytest.raises(StateError):
        match.computed_length(0)
    with pytest.raises(StateError):
        match.payload()


def test_insert_ignores_a_stale_match(tree):
    tokens = pack([1, 2, 3, 4])
    match = tree.match(tokens)
    tree.insert(tokens, 0)
    node = tree.insert(tokens, 1, match=match)
    assert tree.path(node) == tokens
    assert tree.tokens == 4


def test_insert_ignores_a_match_of_other_tokens(tree):
    tree.insert(pack([1, 2, 3]), 0)
    node = tree.insert(pack([7, 8, 9]), 0, match=tree.match(pack([1, 2, 3])))
    assert tree.path(node) == pack([7, 8, 9])


def test_insert_ignores_a_match_of_another_tree(new_tree):
    tree, other = new_tree(), new_tree()
    tree.insert(pack([1, 2, 3]), 0)
    other.insert(pack([7, 8]), 0)
    tokens = pack([7, 8, 9])
    assert tree.path(tree.insert(tokens, 0, match=other.match(tokens))) == tokens
