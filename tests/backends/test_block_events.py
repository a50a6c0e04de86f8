from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.backends import Evicted
from preble.backends.block_events import Cleared, HeldBlocks, Removed, Stored, decode
from preble.errors import EngineError
from preble.tokens import pack

SIZE = 2


def stored(names: list[int], tokens: list[int], parent: int | None = None, **fields: object) -> Stored:
    return Stored(names, tokens, SIZE, parent, **fields)  # type: ignore[arg-type]


def held(*events: Stored | Removed | Cleared) -> HeldBlocks:
    blocks = HeldBlocks(SIZE)
    blocks.apply(events)
    blocks.check()
    return blocks


def test_a_prompt_is_cached_as_far_as_its_whole_blocks_but_for_its_last_token():
    blocks = held(stored([1, 2], [10, 11, 12, 13]))
    assert blocks.match(pack([10, 11, 12, 13, 14])) == 4
    assert blocks.match(pack([10, 11, 12, 13])) == 2
    assert blocks.match(pack([10, 11, 12, 99, 98])) == 2
    assert blocks.match(pack([9, 11])) == 0
    assert blocks.match(b"") == 0


def test_a_block_that_is_held_twice_goes_with_its_second_copy():
    blocks = held(stored([1], [10, 11]), stored([1], [10, 11]), Removed([1]))
    assert blocks.evicted() == []
    assert blocks.match(pack([10, 11, 12])) == 2
    blocks.apply([Removed([1])])
    assert blocks.evicted() == [Evicted(pack([10, 11]), 0)]
    assert blocks.held() == set()


def test_blocks_evicted_up_a_chain_are_one_eviction():
    blocks = held(stored([1, 2, 3], [1, 1, 2, 2, 3, 3]), Removed([3]), Removed([2]))
    assert blocks.evicted() == [Evicted(pack([1, 1, 2, 2, 3, 3]), 2)]
    assert blocks.evicted() == []


def test_a_node_s_blocks_in_any_order_are_gone():
    blocks = held(stored([1, 2, 3], [1, 1, 2, 2, 3, 3]), Removed([1, 2, 3]))
    assert blocks.evicted() == [Evicted(pack([1, 1]), 0)]
    assert blocks.held() == set()


def test_nodes_of_several_blocks_leave_in_one_event_from_the_deepest_on():
    """SGLang's way: node after node from the leaf up, and the blocks of each from its beginning."""
    blocks = held(stored([1], [1, 1]), stored([2, 3], [2, 2, 3, 3], parent=1), Removed([2, 3, 1]))
    assert blocks.evicted() == [Evicted(pack([1, 1, 2, 2]), 2), Evicted(pack([1, 1]), 0)]
    assert blocks.held() == set()


def test_a_block_without_its_parent_is_out_of_reach_until_that_comes_back():
    blocks = held(stored([1, 2], [1, 1, 2, 2]), Removed([1]))
    assert blocks.evicted() == [Evicted(pack([1, 1]), 0)]
    assert blocks.match(pack([1, 1, 2, 2, 3])) == 0
    blocks.apply([stored([1], [1, 1])])
    blocks.check()
    assert blocks.match(pack([1, 1, 2, 2, 3])) == 4


def test_an_eviction_that_was_made_good_before_anybody_asked_is_not_told():
    blocks = held(stored([1, 2], [1, 1, 2, 2]), Removed([2]), Removed([1]), stored([1], [1, 1]))
    assert blocks.evicted() == [Evicted(pack([1, 1, 2, 2]), 2)]
    blocks.apply([Removed([1]), stored([1], [1, 1])])
    assert blocks.evicted() == []


def test_salts_are_apart_and_named():
    """vLLM puts the salt beside the first block, SGLang in a field of its own; blocks below have their parent's."""
    blocks = held(
        stored([1], [1, 1], extra_keys=[["red"]]),
        stored([2], [2, 2], parent=1),
        stored([3], [1, 1], cache_salt="blue"),
        Removed([2]),
        Removed([3]),
    )
    assert blocks.match(pack([1, 1, 5]), "red") == 2
    assert blocks.match(pack([1, 1, 5])) == blocks.match(pack([1, 1, 5]), "blue") == 0
    assert blocks.evicted() == [Evicted(pack([1, 1, 2, 2]), 2, "red"), Evicted(pack([1, 1]), 0, "blue")]


def test_a_reset_that_is_told_late_says_nothing_more():
    """vLLM tells of one with its next step, after which the next request may already be believed cached."""
    blocks = held(stored([1], [1, 1]))
    blocks.forget()
    assert blocks.evicted() == [Evicted(b"", 0)]
    blocks.apply([Cleared(), stored([2], [3, 3])])
    assert blocks.evicted() == []
    assert blocks.match(pack([3, 3, 4])) == 2


def test_a_clear_is_told_as_one():
    blocks = held(stored([1], [1, 1]), Removed([1]), Cleared())
    assert blocks.evicted() == [Evicted(b"", 0)]
    assert blocks.held() == set()


def test_what_cannot_be_placed_is_not_held():
    blocks = held(
        stored([1], [1, 1], medium="CPU"),
        stored([2], [1, 1], group_idx=1),
        stored([3], [1, 1], parent=77),
        stored([4], [1, 1, 2]),
        Removed([5]),
    )
    assert blocks.held() == set()
    assert blocks.evicted() == []


@pytest.mark.parametrize("told", [4, None])
def test_the_blocks_of_an_empty_cache_tell_their_size(told: int | None):
    blocks = held(Stored([1, 2], [10, 11, 12, 13, 20, 21, 22, 23], told))
    assert blocks.block_size == 4
    assert blocks.match(pack([10, 11, 12, 13, 20, 21, 99])) == 4
    blocks.apply([Removed([2])])
    blocks.check()
    assert blocks.evicted() == [Evicted(pack([10, 11, 12, 13, 20, 21, 22, 23]), 4)]
    assert blocks.misfits == 0
    blocks.apply([Cleared(), stored([3], [1, 1])])
    blocks.check()
    assert blocks.block_size == SIZE


@pytest.mark.parametrize(
    "odd",
    [
        Stored([2], [2, 2, 2, 2], 4),
        Stored([2], [2, 2, 2], 2),
        Stored([2, 3], [2, 2, 2], None),
        Stored([2], [], 0),
        Stored([2], [2, 2], -2),
    ],
)
def test_blocks_of_another_size_than_those_that_are_held_are_counted(odd: Stored):
    blocks = held(stored([1], [1, 1]), odd)
    assert blocks.misfits == 1
    assert blocks.held() == {("", pack([1, 1]))}


def test_maps_and_arrays_are_read_and_anything_else_is_refused():
    stored_map = {"type": "BlockStored", "block_hashes": [2**63 + 1], "parent_block_hash": None, "token_ids": [1, 2]}
    maps = [0.5, [stored_map | {"block_size": 2, "lora_id": None, "lora_name": None}, {"type": "AllBlocksCleared"}], 0]
    assert decode(msgspec.msgpack.encode(maps)) == [stored([2**63 + 1], [1, 2]), Cleared()]
    arrays = [0.5, [["BlockStored", [-1], -2, [1, 2], 2, None], ["BlockRemoved", [b"x"]], ["AllBlocksCleared"]]]
    assert decode(msgspec.msgpack.encode(arrays)) == [stored([-1], [1, 2], -2), Removed([b"x"]), Cleared()]
    for wrong in (b"\xc1", msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode([0.5, [["BlockMoved", [1]]]])):
        with pytest.raises(EngineError, match="KV events"):
            decode(wrong)


CHAINS = [(1,), (1, 2), (1, 2, 3), (1, 4), (5,), (5, 2), (5, 2, 6)]
"""Prefixes by block: the last number of each stands for two tokens."""


@given(st.lists(st.tuples(st.sampled_from(CHAINS), st.booleans()), max_size=60))
def test_what_is_held_is_what_a_count_of_copies_says(steps: list[tuple[tuple[int, ...], bool]]):
    blocks = HeldBlocks(SIZE)
    copies = dict.fromkeys(CHAINS, 0)
    believed: set[tuple[int, ...]] = set()
    for chain, store in steps:
        name, parent = CHAINS.index(chain), CHAINS.index(chain[:-1]) if chain[:-1] else None
        if store and all(copies[chain[:depth]] for depth in range(1, len(chain))):
            blocks.apply([stored([name], [chain[-1]] * SIZE, parent)])
            copies[chain] += 1
        elif copies[chain]:
            blocks.apply([Removed([name])])
            copies[chain] -= 1
        blocks.check()
        held = {chain for chain in CHAINS if all(copies[chain[:depth]] for depth in range(1, len(chain) + 1))}
        assert {path for _, path in blocks.held()} == {pack([n for n in chain for _ in range(SIZE)]) for chain in held}
        believed |= held
        for evicted in blocks.evicted():
            keep, gone = evicted.keep // SIZE, evicted.tokens[:: SIZE * 4]
            prefix = tuple(gone[: keep + 1])
            believed = {chain for chain in believed if chain[: keep + 1] != prefix}
        assert believed >= held, "an eviction told of something that is held"
        assert believed <= held, "a block that is gone was not told"
