from __future__ import annotations

import pytest

from preble.backends import Evicted
from preble.backends.cache import BlockCache, Lease
from preble.tokens import pack


def tokens(*ids: int) -> bytes:
    return pack(ids)


def stored(cache: BlockCache, prompt: bytes) -> Lease:
    """Lease, compute and store a whole prompt."""
    lease = cache.acquire(prompt)
    assert cache.extend(lease, len(prompt) // 4)
    cache.store(lease, prompt, len(prompt) // 4)
    return lease


def test_a_stored_prefix_is_matched_in_whole_blocks_after_release():
    cache = BlockCache(kv_tokens=32, block_size=4)
    cache.release(stored(cache, tokens(*range(10))))
    assert cache.match(tokens(*range(10), 50, 51)) == 8
    assert cache.match(tokens(*range(6), 50, 51)) == 4
    assert cache.match(tokens(50)) == 0
    assert cache.match(b"") == 0
    cache.check([])


def test_at_least_one_token_is_left_to_compute():
    cache = BlockCache(kv_tokens=32, block_size=4)
    cache.release(stored(cache, tokens(*range(8))))
    assert cache.match(tokens(*range(8))) == 4
    assert cache.match(tokens(*range(9))) == 8


def test_computed_tokens_are_shared_before_the_sequence_ends():
    cache = BlockCache(kv_tokens=64, block_size=4)
    prompt = tokens(*range(12))
    first = cache.acquire(prompt)
    cache.extend(first, 12)
    cache.store(first, prompt, 7)
    second = cache.acquire(prompt)
    assert second.blocks == first.blocks[:1]
    cache.store(first, prompt, 8)
    assert cache.match(prompt) == 8
    cache.check([first, second])


def test_the_second_to_compute_the_same_tokens_moves_to_the_first_ones_blocks():
    cache = BlockCache(kv_tokens=64, block_size=4)
    prompt = tokens(*range(10))
    first, second = cache.acquire(prompt), cache.acquire(prompt)
    assert cache.extend(first, 10)
    assert cache.extend(second, 10)
    own = list(second.blocks)
    cache.store(first, prompt, 8)
    assert cache.available == 16 - 6
    cache.store(second, prompt, 8)
    assert second.blocks == [*first.blocks[:2], own[2]]
    assert cache.available == 16 - 4
    cache.check([first, second])


def test_a_duplicate_shorter_than_what_is_stored_pins_no_more_than_itself():
    cache = BlockCache(kv_tokens=32, block_size=4)
    prompt = tokens(*range(16))
    short = cache.acquire(prompt)
    cache.extend(short, 16)
    cache.release(stored(cache, prompt))
    cache.store(short, prompt, 4)
    cache.check([short])
    other = cache.acquire(tokens(100))
    assert cache.extend(other, 4 * 4), "the rest of the stored prompt can be evicted"
    cache.check([short, other])


def test_a_lease_in_the_middle_of_a_cached_prefix_leaves_the_rest_to_evict():
    cache = BlockCache(kv_tokens=32, block_size=4)
    cache.release(stored(cache, tokens(*range(32))))
    lease = cache.acquire(tokens(*range(4), 99))
    assert len(lease.blocks) == 1
    assert cache.extend(lease, 32)
    cache.check([lease])
    assert cache.match(tokens(*range(32))) == 4


def test_eviction_takes_the_least_recently_used_and_tells_of_it():
    cache = BlockCache(kv_tokens=32, block_size=4)
    for first in (0, 100, 200):
        cache.release(stored(cache, tokens(*range(first, first + 8))))
    cache.release(cache.acquire(tokens(*range(9))))
    lease = cache.acquire(tokens(300))
    assert cache.extend(lease, 16)
    assert cache.evicted() == [Evicted(tokens(*range(100, 108)), 0)]
    assert cache.evicted() == []
    assert cache.match(tokens(*range(9))) == 8
    cache.check([lease])


def test_eviction_is_leaf_first_and_may_keep_the_beginning():
    cache = BlockCache(kv_tokens=32, block_size=4)
    prompt = tokens(*range(24))
    cache.release(stored(cache, prompt))
    lease = cache.acquire(tokens(300))
    assert cache.extend(lease, 16)
    assert cache.match(prompt) == 16
    assert [event.keep for event in cache.evicted()] == [16]
    cache.check([lease])


def test_leased_blocks_are_never_evicted_and_a_refusal_changes_nothing():
    cache = BlockCache(kv_tokens=32, block_size=4)
    cache.release(stored(cache, tokens(*range(100, 112))))
    lease = stored(cache, tokens(*range(16)))
    other = cache.acquire(tokens(500))
    assert not cache.extend(other, 20)
    assert not cache.extend(other, 16, spare=1)
    assert other.blocks == []
    assert cache.evicted() == []
    assert cache.extend(other, 16)
    assert set(other.blocks).isdisjoint(lease.blocks)
    cache.check([lease, other])


def test_available_counts_shared_blocks_once():
    cache = BlockCache(kv_tokens=40, block_size=4)
    prompt = tokens(*range(9))
    leases = [stored(cache, prompt) for _ in range(3)]
    assert cache.available == 10 - 2 - 3
    for lease in leases:
        cache.release(lease)
    assert cache.available == 10
    cache.check([])


def test_reset_forgets_everything_when_nothing_runs():
    cache = BlockCache(kv_tokens=32, block_size=4)
    cache.release(stored(cache, tokens(*range(8))))
    cache.reset()
    assert cache.match(tokens(*range(9))) == 0
    assert cache.evicted() == [Evicted(b"", 0)]
    cache.check([])


def test_reset_keeps_what_is_leased():
    cache = BlockCache(kv_tokens=32, block_size=4)
    cache.release(stored(cache, tokens(*range(8))))
    lease = stored(cache, tokens(*range(100, 108)))
    cache.reset()
    assert cache.match(tokens(*range(9))) == 0
    assert cache.match(tokens(*range(100, 109))) == 8
    assert cache.evicted() == [Evicted(tokens(*range(8)), 0)]
    cache.check([lease])


def test_check_finds_a_block_with_two_owners():
    cache = BlockCache(kv_tokens=32, block_size=4)
    lease = cache.acquire(tokens(1, 2))
    cache.extend(lease, 8)
    lease.blocks[1] = lease.blocks[0]
    with pytest.raises(AssertionError):
        cache.check([lease])


def test_check_finds_a_lost_block():
    cache = BlockCache(kv_tokens=32, block_size=4)
    lease = cache.acquire(tokens(1, 2))
    cache.extend(lease, 8)
    with pytest.raises(AssertionError):
        cache.check([])


def test_blocks_of_a_released_lease_serve_again():
    cache = BlockCache(kv_tokens=8, block_size=4)
    for _ in range(3):
        lease = cache.acquire(tokens(1, 2, 3))
        assert cache.extend(lease, 8)
        cache.release(lease)
    cache.check([])
