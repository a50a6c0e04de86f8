"""The walk in C finds what the one in Python finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.tokens import pack
from preble.tree import RadixTree
from preble.tree.walk import common_prefix, walk, walk_in_python

native = pytest.mark.skipif(walk is walk_in_python, reason="no extension, no compiler: see tests/test_extensions.py")
prompts = st.lists(st.integers(0, 2), max_size=12)
"""Few tokens, so that many prefixes are shared."""


@given(
    same=st.integers(0, 5000),
    ours=st.binary(max_size=300),
    theirs=st.binary(max_size=300),
    before=st.binary(max_size=8),
    seed=st.binary(min_size=1, max_size=7),
)
def test_common_prefix_is_exact(same, ours, theirs, before, seed):
    shared = (seed * (same // len(seed) + 1))[:same]
    tokens, edge = before + shared + ours, shared + theirs
    found = common_prefix(tokens, len(before), edge)
    rest = tokens[len(before) :]
    assert rest[:found] == edge[:found]
    assert found == min(len(rest), len(edge)) or rest[found] != edge[found]


@native
@given(st.lists(st.tuples(prompts, st.integers(0, 70)), max_size=8), prompts, st.sampled_from([1, 2, 4]))
def test_both_walks_find_the_same(inserted, prompt, block_size):
    tree = RadixTree(block_size=block_size)
    for tokens, worker in inserted:
        tree.insert(pack([token for token in tokens for _ in range(30)]), worker)
    nodes = tree.match(b"").nodes
    columns = nodes.edge, nodes.children, nodes.holders
    wanted = pack([token for token in prompt for _ in range(30)])
    for length in (len(wanted), max(0, len(wanted) - 17 * 4), min(len(wanted), 44)):
        found = walk(wanted[:length], nodes.stride, *columns)
        assert found == walk_in_python(wanted[:length], nodes.stride, *columns)


@native
def test_the_extension_refuses_what_is_no_tree():
    edge, children, holders = (np.array([each, each], dtype=object) for each in (b"", None, 0))
    with pytest.raises(TypeError):
        walk([1], 4, edge, children, holders)
    with pytest.raises(TypeError):
        walk(b"", "4", edge, children, holders)
    with pytest.raises(TypeError):
        walk(b"", 4, None, children, holders)
    children[0] = {b"abcd": 2}
    with pytest.raises(SystemError, match="no node"):
        walk(b"abcd", 4, edge, children, holders)
    children[0] = 5
    with pytest.raises(SystemError):
        walk(b"abcd", 4, edge, children, holders)
    with pytest.raises(ValueError, match="columns"):
        walk(b"abcd", 4, edge, children[:1], holders)
    with pytest.raises(ValueError, match="stride"):
        walk(b"abcd", 0, edge, children, holders)
