"""Chunks become index arrays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.backends.batching import TokenSpan
from preble.backends.torch.batch import arrange, buckets
from tests.backends.torch.network import sequence


def test_arrange():
    long = sequence([10, 11, 12, 13, 14], blocks=[7, 3, 5])
    short = sequence([20, 21], blocks=[2])
    middle = sequence([30, 31, 32, 33], blocks=[4, 6])
    spans = [TokenSpan(middle, 1, 2, False), TokenSpan(short, 1, 1, True), TokenSpan(long, 4, 1, True)]
    batch = arrange(spans, 2)
    assert batch.tokens.tolist() == [14, 21, 31, 32]
    assert batch.positions.tolist() == [4, 1, 1, 2]
    assert batch.blocks.tolist() == [5, 2, 4, 6]
    assert batch.offsets.tolist() == [0, 1, 1, 0]
    assert batch.counts.tolist() == [1, 1, 2]
    assert batch.lengths.tolist() == [5, 2, 3]
    assert batch.table.tolist() == [[7, 3, 5], [2, 0, 0], [4, 6, 0]]
    assert batch.singles == 2
    assert batch.sampled.tolist() == [1, 0], "in the order of the spans given"


def test_a_batch_outlives_its_sequences():
    made = sequence([1, 2, 3], blocks=[4, 5])
    batch = arrange([TokenSpan(made, 0, 3, True)], 2)
    made.lease = None
    made.tokens.clear()
    assert batch.tokens.tolist() == [1, 2, 3]
    assert batch.table.tolist() == [[4, 5]]


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 400))
def test_buckets(lengths, most):
    blocks = sorted(lengths, reverse=True)
    ranges = list(buckets(blocks, most))
    assert [index for first, last in ranges for index in range(first, last)] == list(range(len(blocks)))
    for first, last in ranges:
        assert last - first == 1 or blocks[first] * (last - first) <= most
        assert blocks[first] <= 2 * blocks[last - 1] + 8


@pytest.mark.parametrize(("blocks", "ranges"), [([9] * 4, [(0, 4)]), ([100, 4, 4], [(0, 1), (1, 3)])])
def test_buckets_are_few(blocks, ranges):
    assert list(buckets(blocks, 1000)) == ranges
