from __future__ import annotations

from array import array

import pytest

from preble.errors import StateError
from preble.tokens import pack, unpack
from preble.tree import RadixTree
from preble.tree.holding import Holding
from preble.tree.nodes import Nodes
from preble.tree.radix import MERGE_HOLDERS
from preble.tree.recency import Recency


def store(tree: RadixTree, tokens, worker: int = 0, payload=None) -> int:
    """A request that came, was computed and went: its prefix stays."""
    node = tree.insert(pack(tokens), worker, computed=True, payload=None if payload is None else array("i", payload))
    tree.unpin(node, worker)
    return node


def evicted(tree: RadixTree, tokens: int, worker: int = 0) -> list[tuple[tuple[int, ...], int]]:
    return [(unpack(one.tokens), one.keep) for one in tree.evict(worker, tokens)]


def nodes_on_path(tree: RadixTree, node: int) -> int:
    return 1 + nodes_on_path(tree, tree.parent(node)) if node else 0


# --- insert and split ---


def test_insert_returns_the_node_where_the_tokens_end(tree):
    node = tree.insert(pack([1, 2, 3]), 0)
    assert (tree.path(node), tree.depth(node)) == (pack([1, 2, 3]), 3)
    assert (tree.nodes, tree.tokens, tree.held_tokens(0)) == (1, 3, 3)


def test_nothing_to_insert_is_the_root(new_tree):
    tree = new_tree(block_size=4)
    assert tree.insert(pack([1, 2, 3]), 0) == tree.insert(b"", 0) == 0
    tree.mark_computed(0, 0)
    tree.touch(0, 0)
    tree.unpin(0, 0)
    assert (tree.nodes, tree.depth(0), tree.path(0)) == (0, 0, b"")


def test_divergence_splits_and_pinned_numbers_stay(tree):
    first = tree.insert(pack([1, 2, 3, 4]), 0)
    second = tree.insert(pack([1, 2, 9]), 1)
    assert tree.path(first) == pack([1, 2, 3, 4])
    assert tree.path(second) == pack([1, 2, 9])
    assert (tree.nodes, tree.tokens) == (3, 5)


def test_a_request_ending_inside_an_edge_claims_no_more_than_its_tokens(tree):
    tree.insert(pack([1, 2, 3, 4]), 0)
    short = tree.insert(pack([1, 2]), 1)
    tree.mark_computed(short, 1)
    match = tree.match(pack([1, 2, 3, 4]))
    assert (match.computed_length(1), match.computed_length(0)) == (2, 0)
    assert (tree.held_tokens(0), tree.held_tokens(1)) == (4, 2)


def test_a_split_keeps_what_is_in_flight_in_flight(tree):
    long = tree.insert(pack([1, 2, 3, 4]), 0)
    other = tree.insert(pack([1, 2, 9]), 1)
    tree.unpin(long, 0)
    assert tree.held_tokens(0) == 0
    tree.mark_computed(other, 1)
    tree.unpin(other, 1)
    assert tree.match(pack([1, 2, 9])).computed_length(1) == 3


def test_blocks_divide_edges(new_tree):
    tree = new_tree(block_size=2)
    tree.insert(pack([1, 2, 3, 4]), 0)
    tree.insert(pack([1, 2, 3, 9]), 0)
    assert (tree.nodes, tree.tokens) == (3, 6)


def test_neither_pinned_nor_computed_is_refused(tree):
    with pytest.raises(ValueError, match="nobody"):
        tree.insert(pack([1]), 0, pin=False)
    assert tree.nodes == 0


def test_a_block_has_a_token():
    with pytest.raises(ValueError, match="block_size"):
        RadixTree(block_size=0)


def test_many_workers(tree):
    for worker in range(300):
        store(tree, [1, 2, worker], worker)
    match = tree.match(pack([1, 2, 299]))
    assert match.levels == [(2, (1 << 300) - 1), (3, 1 << 299)]
    tree.remove_worker(299)
    assert tree.match(pack([1, 2, 299])).levels == [(2, (1 << 299) - 1)]


# --- pins and what is computed ---


def test_unpinning_what_is_computed_keeps_it(tree):
    node = tree.insert(pack([1, 2]), 0)
    tree.mark_computed(node, 0)
    tree.unpin(node, 0)
    assert tree.held_tokens(0) == 2


def test_unpinning_what_is_not_computed_forgets_it(tree):
    store(tree, [1, 2])
    node = tree.insert(pack([1, 2, 3, 4]), 0)
    tree.unpin(node, 0)
    assert (tree.nodes, tree.tokens, tree.held_tokens(0)) == (1, 2, 2)


def test_the_last_of_several_pins_decides(tree):
    first, second = tree.insert(pack([1, 2]), 0), tree.insert(pack([1, 2]), 0)
    longer = tree.insert(pack([1, 2, 3]), 0)
    tree.unpin(first, 0)
    tree.unpin(second, 0)
    assert tree.held_tokens(0) == 3
    tree.unpin(longer, 0)
    assert (tree.held_tokens(0), tree.nodes) == (0, 0)


def test_pins_of_others_do_not_hold_for_a_worker(tree):
    mine, theirs = tree.insert(pack([1, 2]), 0), tree.insert(pack([1, 2]), 1)
    tree.unpin(mine, 0)
    assert (tree.held_tokens(0), tree.held_tokens(1)) == (0, 2)
    assert tree.path(theirs) == pack([1, 2])


def test_marking_reaches_up_to_what_was_computed_before(tree):
    upper = tree.insert(pack([1, 2]), 0)
    lower = tree.insert(pack([1, 2, 3]), 0)
    tree.mark_computed(lower, 0)
    assert tree.match(pack([1, 2, 3])).computed_length(0) == 3
    tree.unpin(upper, 0)
    tree.unpin(lower, 0)
    assert tree.held_tokens(0) == 3


@pytest.mark.parametrize("method", ["mark_computed", "touch", "unpin"])
def test_a_node_that_is_not_held_is_refused(tree, method):
    node = tree.insert(pack([1, 2]), 0)
    for wrong_node, wrong_worker in ((node, 1), (node + 7, 0)):
        with pytest.raises(StateError):
            getattr(tree, method)(wrong_node, wrong_worker)


def test_unpinning_twice_is_refused(tree):
    node = tree.insert(pack([1, 2]), 0, computed=True)
    tree.unpin(node, 0)
    with pytest.raises(StateError):
        tree.unpin(node, 0)


# --- merging ---


def test_a_conversation_stays_a_short_path(tree):
    tokens: list[int] = []
    for turn in range(40):
        tokens += range(1000 * turn, 1000 * turn + 200)
        node = tree.insert(pack(tokens), 0)
        assert nodes_on_path(tree, node) <= 3
        tree.mark_computed(node, 0)
        tree.unpin(node, 0)
    assert tree.nodes == 1
    assert tree.match(pack(tokens)).computed_length(0) == 8000


def test_a_conversation_on_two_workers_stays_a_short_path(tree):
    tokens: list[int] = []
    for turn in range(40):
        tokens += range(1000 * turn, 1000 * turn + 200)
        assert nodes_on_path(tree, store(tree, tokens, turn % 2)) <= 3
    assert tree.nodes == 2


def test_overlapping_turns_merge_once_the_earlier_is_done(tree):
    first = tree.insert(pack([1, 2]), 0, computed=True)
    second = tree.insert(pack([1, 2, 3]), 0, computed=True)
    tree.unpin(second, 0)
    assert tree.nodes == 2
    tree.unpin(first, 0)
    assert tree.nodes == 1


def test_siblings_gone_leave_one_edge(tree):
    store(tree, [1, 2, 3])
    other = tree.insert(pack([1, 2, 9]), 0)
    assert tree.nodes == 3
    tree.unpin(other, 0)
    assert tree.nodes == 1


def test_what_holders_tell_apart_stays_apart(tree):
    store(tree, [1, 2, 3, 4], 0)
    store(tree, [1, 2], 1)
    assert tree.nodes == 2
    store(tree, [1, 2, 3, 4], 1)
    assert tree.nodes == 1


def test_what_one_worker_gives_up_may_make_the_rest_alike(tree):
    store(tree, [1, 2, 3, 4], 1)
    node = tree.insert(pack([1, 2]), 0)
    assert tree.nodes == 2
    tree.unpin(node, 0)
    assert tree.nodes == 1
    store(tree, [1, 2], 0)
    assert tree.nodes == 2
    assert evicted(tree, 2, worker=0) == [((1, 2), 0)]
    assert tree.nodes == 1


def test_truncate_leaves_one_edge(tree):
    store(tree, [1, 2, 3])
    store(tree, [1, 2, 4])
    tree.truncate(pack([1, 2, 3]), 2, 0)
    assert tree.nodes == 1


def test_a_prefix_of_what_is_computed_needs_no_node(tree):
    store(tree, [1, 2, 3, 4])
    node = tree.insert(pack([1, 2]), 0, pin=False, computed=True)
    assert tree.nodes == 1
    assert tree.path(node) == pack([1, 2, 3, 4])


def test_a_merged_node_keeps_the_place_of_its_upper_part(tree):
    store(tree, [1, 2, 3, 4], 0)
    store(tree, [1, 2, 3, 9], 1)
    store(tree, [7], 0)
    store(tree, [1, 2], 0)
    assert tree.nodes == 4
    assert evicted(tree, 1) == [((1, 2, 3, 4), 3)]
    assert evicted(tree, 1) == [((7,), 0)]


def test_what_many_workers_hold_stays_split(tree):
    for worker in range(MERGE_HOLDERS + 1):
        store(tree, [1, 2, 3, 4], worker)
    short = tree.insert(pack([1, 2]), 0)
    tree.unpin(short, 0)
    assert tree.nodes == 2
    tree.remove_worker(MERGE_HOLDERS)
    tree.unpin(tree.insert(pack([1, 2]), 0), 0)
    assert tree.nodes == 1


def test_with_and_without_payload_stay_apart(tree):
    store(tree, [1, 2])
    store(tree, [1, 2, 3], payload=[7, 8, 9])
    assert tree.nodes == 2


# --- eviction ---


def test_eviction_takes_the_least_recently_used_leaf_first(tree):
    store(tree, [1, 2, 3, 3])
    store(tree, [1, 2, 4, 4])
    store(tree, [5])
    store(tree, [1, 2, 3, 3])
    assert evicted(tree, 2) == [((1, 2, 4, 4), 2)]
    assert evicted(tree, 1) == [((5,), 0)]
    assert evicted(tree, 4) == [((1, 2, 3, 3), 0)]
    assert (tree.nodes, tree.held_tokens(0), evicted(tree, 1)) == (0, 0, [])


def test_a_parent_without_a_use_of_its_own_follows_its_child(tree):
    """The split on worker 1's account gave worker 0 a node that it never used by itself."""
    store(tree, [1, 2, 3, 4], 0)
    store(tree, [1, 2, 9, 9], 1)
    store(tree, [5, 6], 0)
    assert evicted(tree, 3) == [((1, 2, 3, 4), 2), ((1, 2), 1)]
    assert evicted(tree, 2) == [((1,), 0), ((5, 6), 1)]
    assert tree.held_tokens(1) == 4


def test_eviction_takes_parts_from_the_lower_end(tree):
    store(tree, [1, 2, 3, 4])
    assert evicted(tree, 1) == [((1, 2, 3, 4), 3)]
    assert tree.match(pack([1, 2, 3, 4])).computed_length(0) == 3
    assert tree.held_tokens(0) == 3


def test_eviction_rounds_up_to_blocks(new_tree):
    tree = new_tree(block_size=4)
    store(tree, range(12))
    assert evicted(tree, 5) == [(tuple(range(12)), 4)]


def test_evictions_without_paths_still_say_how_much_is_kept():
    tree = RadixTree()
    tree.unpin(tree.insert(pack([1, 2, 3, 4]), 0, computed=True), 0)
    assert tree.evict(0, 3, paths=False) == [(b"", 1, None)]
    assert tree.held_tokens(0) == 1
    tree.check()


def test_eviction_leaves_what_others_hold(tree):
    store(tree, [1, 2, 3], 0, payload=[7, 8, 9])
    store(tree, [1, 2, 3], 1, payload=[7, 8, 9])
    (one,) = tree.evict(0, 3)
    assert one.payload is None
    assert (tree.held_tokens(0), tree.held_tokens(1)) == (0, 3)


def test_eviction_never_takes_what_a_pin_needs(tree):
    pinned = tree.insert(pack([1, 2, 3]), 0, computed=True)
    store(tree, [1, 2, 4])
    store(tree, [6])
    assert evicted(tree, 100) == [((1, 2, 4), 2), ((6,), 0)]
    assert evicted(tree, 100) == []
    assert tree.path(pinned) == pack([1, 2, 3])
    tree.unpin(pinned, 0)
    assert evicted(tree, 100) == [((1, 2, 3), 0)]


def test_evicting_nothing_or_from_nobody(tree):
    store(tree, [1])
    assert evicted(tree, 0) == evicted(tree, 5, worker=3) == []


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 5, 6, 100])
def test_victims_are_what_eviction_takes(tree, tokens):
    """A parent without a place of its own, a pinned path in between, and a part of the last node."""
    store(tree, [1, 2, 3, 4], 0)
    store(tree, [1, 2, 9, 9], 1)
    tree.insert(pack([7, 7]), 0, computed=True)
    store(tree, [5, 6], 0)
    victims = [(unpack(tree.path(node)), gone) for node, gone in tree.victims(0, tokens)]
    assert victims == [(path, len(path) - keep) for path, keep in evicted(tree, tokens)]


def test_nobody_has_no_victims(tree):
    assert list(tree.victims(5, 10)) == []


def test_a_touch_makes_others_the_next_to_go(tree):
    kept = store(tree, [1, 2])
    store(tree, [3])
    assert [tree.path(node) for node, _ in tree.victims(0, 1)] == [pack([1, 2])]
    tree.touch(kept, 0)
    assert [tree.path(node) for node, _ in tree.victims(0, 1)] == [pack([3])]


# --- truncate, clear, remove ---


def test_truncate_cuts_the_path_and_all_below(tree):
    store(tree, [1, 2, 3, 4])
    store(tree, [1, 2, 3, 5])
    store(tree, [1, 9])
    tree.truncate(pack([1, 2, 3, 4]), 2, 0)
    assert tree.match(pack([1, 2, 3, 5])).tokens == 2
    assert tree.match(pack([1, 9])).tokens == 2
    assert tree.held_tokens(0) == 3


def test_truncate_leaves_branches_at_its_depth(tree):
    store(tree, [1, 2, 3])
    store(tree, [1, 2, 4])
    tree.truncate(pack([1, 2, 3]), 2, 0)
    assert tree.match(pack([1, 2, 4])).tokens == 3
    assert tree.match(pack([1, 2, 3])).tokens == 2


def test_truncate_ending_inside_the_tree_takes_what_hangs_below(tree):
    store(tree, [1, 2, 3, 4, 5])
    tree.truncate(pack([1, 2, 3]), 2, 0)
    assert tree.match(pack([1, 2, 3, 4, 5])).tokens == 2


def test_truncate_of_a_path_that_leaves_the_tree_beyond_keep(tree):
    store(tree, [1, 2, 3, 4, 5])
    tree.truncate(pack([1, 2, 3, 9]), 1, 0)
    assert tree.held_tokens(0) == 1


def test_truncate_keeps_whole_blocks_only(new_tree):
    tree = new_tree(block_size=4)
    store(tree, range(12))
    tree.truncate(pack(range(12)), 7, 0)
    assert tree.held_tokens(0) == 4


def test_truncate_beyond_what_is_there_changes_nothing(tree):
    store(tree, [1, 2])
    tree.truncate(pack([1, 2, 3, 4]), 2, 0)
    tree.truncate(pack([1, 2]), 5, 0)
    tree.truncate(pack([7]), 0, 0)
    tree.truncate(pack([1, 2]), 0, 1)
    assert (tree.nodes, tree.held_tokens(0)) == (1, 2)


def test_truncate_is_for_one_worker(tree):
    store(tree, [1, 2, 3], 0)
    store(tree, [1, 2, 3], 1)
    tree.truncate(pack([1, 2, 3]), 1, 0)
    match = tree.match(pack([1, 2, 3]))
    assert (match.length(0), match.length(1)) == (1, 3)


def test_truncate_leaves_what_pins_need_in_flight(tree):
    node = tree.insert(pack([1, 2, 3]), 0, computed=True)
    store(tree, [1, 2, 3, 4])
    tree.truncate(pack([1, 2, 3, 4]), 1, 0)
    match = tree.match(pack([1, 2, 3, 4]))
    assert (match.length(0), match.computed_length(0)) == (3, 1)
    tree.unpin(node, 0)
    assert tree.held_tokens(0) == 1


def test_clear_leaves_only_what_pins_need(tree):
    node = tree.insert(pack([1, 2, 3]), 0, computed=True)
    store(tree, [1, 2, 3, 4, 5])
    store(tree, [6, 7])
    store(tree, [6, 7], 1)
    tree.clear(0)
    assert (tree.held_tokens(0), tree.held_tokens(1)) == (3, 2)
    assert tree.match(pack([1, 2, 3])).computed_length(0) == 0
    tree.mark_computed(node, 0)
    tree.unpin(node, 0)
    assert tree.match(pack([1, 2, 3])).computed_length(0) == 3


def test_remove_worker_takes_its_pins_too(tree):
    tree.insert(pack([1, 2, 3]), 0)
    theirs = tree.insert(pack([1, 2]), 1)
    tree.remove_worker(0)
    assert (tree.held_tokens(0), tree.tokens) == (0, 2)
    tree.unpin(theirs, 1)
    assert tree.nodes == 0
    assert tree.path(tree.insert(pack([5]), 0)) == pack([5])


def test_unknown_workers_hold_nothing(tree):
    tree.clear(9)
    tree.remove_worker(9)
    assert (tree.held_tokens(9), tree.evict(9, 1)) == (0, [])


# --- payload ---


def test_only_the_payload_of_new_blocks_is_stored(new_tree):
    tree = new_tree(block_size=2)
    store(tree, [1, 2, 3, 4], payload=[10, 11])
    store(tree, [1, 2, 5, 6, 7], payload=[20, 21])
    assert list(tree.match(pack([1, 2, 5, 6, 7])).payload()) == [10, 21]
    assert list(tree.match(pack([1, 2, 3, 4])).payload()) == [10, 11]
    assert list(tree.match(pack([1, 2, 3])).payload()) == [10]


def test_the_payload_of_what_is_evicted_comes_back(new_tree):
    tree = new_tree(block_size=2)
    store(tree, range(8), payload=[10, 11, 12, 13])
    assert [list(one.payload) for one in tree.evict(0, 3)] == [[12, 13]]
    assert [list(one.payload) for one in tree.evict(0, 99)] == [[10, 11]]


def test_the_payload_must_fit_the_tokens(new_tree):
    tree = new_tree(block_size=2)
    with pytest.raises(ValueError, match="payload"):
        store(tree, range(8), payload=[1, 2, 3])
    assert tree.nodes == 0


def test_the_given_payload_is_copied(tree):
    payload = array("i", [1, 2])
    tree.insert(pack([5, 6]), 0, payload=payload)
    payload[0] = 99
    assert list(tree.match(pack([5, 6])).payload()) == [1, 2]


# --- check ---


@pytest.mark.parametrize(
    ("where", "method", "message"),
    [
        (Holding, "unpin", "pins"),
        (Holding, "split", "pending pins"),
        (Holding, "absorb", "older than a child|no place|does not hold"),
        (Recency, "touch", "no place in its order"),
        (Recency, "replace", "orders what it does not hold"),
        (Nodes, "remove", "nobody holds it|unreachable"),
    ],
)
def test_check_finds_a_step_left_out(monkeypatch: pytest.MonkeyPatch, where: type, method: str, message: str):
    """The test of `check`: what each fixture of these tests ends with."""
    tree = RadixTree()
    monkeypatch.setattr(where, method, lambda *_: None)
    with pytest.raises(AssertionError, match=message):
        live_a_little(tree)


def live_a_little(tree: RadixTree) -> None:
    for tokens in ([1, 2], [1, 2, 3, 4], [1, 2, 3, 9], [1, 7]):
        node = tree.insert(pack(tokens), 0)
        tree.check()
        tree.mark_computed(node, 0)
        tree.check()
        tree.unpin(node, 0)
        tree.check()
    tree.insert(pack([5, 6]), 0)
    tree.insert(pack([5, 7]), 0)
    tree.check()
    tree.evict(0, 3)
    tree.check()


def test_nothing_is_left_out():
    live_a_little(RadixTree())


@pytest.mark.parametrize(("column", "value"), [("pins", 7), ("computed", 1), ("holders", 2)])
def test_check_sees_a_wrong_column(column: str, value: int):
    tree = RadixTree()
    tree.insert(pack([1, 2]), 0, computed=True)
    node = tree.insert(pack([1, 2, 3]), 0)
    getattr(tree.match(b"").nodes, column)[node] = value
    with pytest.raises(AssertionError):
        tree.check()


def test_an_output_lengthens_the_edge_of_its_prompt(tree):
    node = tree.insert(pack([1, 2, 3]), 0, computed=True)
    tree.extend(node, pack([4, 5]), 0)
    assert (tree.nodes, tree.depth(node), tree.held_tokens(0)) == (1, 5, 5)
    assert tree.match(pack([1, 2, 3, 4, 5, 6])).length(0) == 5


def test_an_output_is_the_end_of_no_other_request_s_prompt(tree):
    node = tree.insert(pack([1, 2, 3]), 0, computed=True)
    assert tree.insert(pack([1, 2, 3]), 0) == node
    tree.extend(node, pack([4, 5]), 0)
    assert tree.depth(node) == 3
    assert tree.match(pack([1, 2, 3, 4, 5])).length(0) == 5


def test_an_output_belongs_to_the_worker_that_generated_it(tree):
    node = tree.insert(pack([1, 2, 3]), 0, computed=True)
    tree.insert(pack([1, 2, 3]), 1, pin=False, computed=True)
    tree.extend(node, pack([4]), 0)
    match = tree.match(pack([1, 2, 3, 4]))
    assert (match.length(0), match.length(1)) == (4, 3)


def test_an_output_without_a_pin_is_refused(tree):
    node = tree.insert(pack([1, 2, 3]), 0, computed=True)
    tree.unpin(node, 0)
    with pytest.raises(StateError):
        tree.extend(node, pack([4]), 0)


def test_truncate_by_blocks_leaves_other_blocks_that_begin_alike(tree):
    store(tree, [1, 2, 3, 4, 5, 6, 7, 8])
    store(tree, [1, 2, 3, 9, 9, 9, 9, 9])
    tree.truncate(pack([1, 2, 3, 4, 5, 6, 7, 8]), 0, 0, worker_block_size=4)
    assert tree.match(pack([1, 2, 3, 9, 9, 9, 9, 9])).length(0) == 8
    assert tree.match(pack([1, 2, 3, 4, 5, 6, 7, 8])).length(0) == 3
    tree.truncate(pack([1, 2, 3, 9, 9, 9, 9, 9]), 0, 0, worker_block_size=4)
    assert tree.nodes == 0


@pytest.mark.parametrize("others", [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 9], [1, 2, 3]])
def test_truncate_by_blocks_does_not_depend_on_what_others_hold(tree, others):
    store(tree, [1, 2, 3], 0)
    store(tree, others, 1)
    tree.truncate(pack([1, 2, 3, 4, 5, 6, 7, 8]), 1, 0, worker_block_size=4)
    assert (tree.held_tokens(0), tree.held_tokens(1)) == (1, len(others))


def test_truncate_by_blocks_leaves_what_pins_need(tree):
    node = tree.insert(pack([1, 2, 3]), 0, computed=True)
    store(tree, [1, 2, 3, 4, 5, 6, 7, 8])
    tree.truncate(pack([1, 2, 3, 4, 5, 6, 7, 8]), 0, 0, worker_block_size=4)
    assert (tree.path(node), tree.held_tokens(0)) == (pack([1, 2, 3]), 3)


def test_truncate_by_blocks_takes_what_is_left_of_a_block(tree):
    store(tree, [1, 2, 3, 4, 5, 6])
    tree.truncate(pack([1, 2, 3, 4, 5, 6]), 4, 0, worker_block_size=4)
    assert tree.held_tokens(0) == 4
    tree.truncate(pack([1, 2, 3, 4]), 0, 0, worker_block_size=4)
    assert tree.held_tokens(0) == 0


def test_a_truncation_inside_a_block_of_the_worker_splits_at_one_of_the_tree() -> None:
    tree = RadixTree(block_size=4)
    for worker in range(MERGE_HOLDERS + 2):  # so many that the halves stay apart
        tree.insert(pack([*range(12), 50, 50, 50, 50]), worker, pin=False, computed=True)
        tree.insert(pack(list(range(32))), worker, pin=False, computed=True)
    tree.truncate(pack(list(range(32))), 8, 0, worker_block_size=6)
    tree.check()
    assert tree.match(pack(list(range(32)))).length(0) == 12, "the other path is that of another block"
