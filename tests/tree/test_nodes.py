"""What becomes of every column when a node is split, and when it is merged again."""

from __future__ import annotations

import gc
import random
import tracemalloc
from array import array

import pytest

from preble.tokens import pack, unpack
from preble.tree import RadixTree
from preble.tree.nodes import Nodes
from preble.tree.recency import Recency


@pytest.fixture
def nodes() -> Nodes:
    """One node of three blocks with a child, held by 0, 1 and 2, computed by 0 and 1, with two pins."""
    nodes = Nodes(block_size=2)
    node = nodes.add(0, pack([1, 2, 3, 4, 5, 6]), array("i", [10, 11, 12]))
    nodes.holders[node], nodes.computed[node], nodes.pins[node] = 0b111, 0b011, 2
    child = nodes.add(node, pack([7, 8]), array("i", [13]))
    nodes.holders[child] = 0b100
    nodes.check()
    return nodes


def test_split_rules(nodes):
    upper = nodes.split(1, nodes.stride)
    nodes.check()
    assert (nodes.parent[upper], nodes.parent[1], nodes.parent[2]) == (0, upper, 1)
    assert (nodes.end[upper], nodes.end[1]) == (2, 6)
    assert (unpack(nodes.edge[upper]), unpack(nodes.edge[1])) == ((1, 2), (3, 4, 5, 6))
    assert nodes.holders[upper] == nodes.holders[1] == 0b111
    assert nodes.computed[upper] == nodes.computed[1] == 0b011
    assert (nodes.pins[upper], nodes.pins[1]) == (0, 2)
    assert nodes.children[upper] == {pack([3, 4]): 1}
    assert nodes.children[1] == {pack([7, 8]): 2}
    assert (list(nodes.payload[upper]), list(nodes.payload[1])) == ([10], [11, 12])
    assert (nodes.count, nodes.tokens) == (3, 8)


def test_absorb_undoes_a_split(nodes):
    before = nodes.path_tokens(2), list(nodes.path_payload(2)), nodes.tokens, nodes.count
    upper = nodes.split(1, nodes.stride)
    assert nodes.absorb(upper) == 1
    nodes.check()
    assert (nodes.path_tokens(2), list(nodes.path_payload(2)), nodes.tokens, nodes.count) == before
    assert nodes.pins[1] == 2
    assert nodes.children[0] == {pack([1, 2]): 1}


def test_numbers_are_reused(nodes):
    nodes.remove(2)
    assert nodes.add(1, pack([9, 9]), None) == 2
    assert 2 not in nodes.payload
    assert nodes.pins[2] == 0


def test_every_change_of_shape_has_its_version(nodes):
    seen = {nodes.version}
    upper = nodes.split(1, nodes.stride)
    seen.add(nodes.version)
    nodes.absorb(upper)
    seen.add(nodes.version)
    nodes.remove(2)
    seen.add(nodes.version)
    nodes.add(1, pack([9, 9]), None)
    seen.add(nodes.version)
    assert len(seen) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda nodes: nodes.end.__setitem__(2, 9),
        lambda nodes: nodes.parent.__setitem__(2, 0),
        lambda nodes: nodes.holders.__setitem__(2, 0b1000),
        lambda nodes: nodes.holders.__setitem__(2, 0),
        lambda nodes: nodes.computed.__setitem__(1, 0b1000),
        lambda nodes: nodes.computed.__setitem__(2, 0b100),
        lambda nodes: nodes.pins.__setitem__(1, -1),
        lambda nodes: nodes.edge.__setitem__(2, pack([7])),
        lambda nodes: nodes.edge.__setitem__(2, pack([8, 8])),
        lambda nodes: nodes.payload.__setitem__(1, array("i", [10])),
        lambda nodes: nodes.children.__setitem__(2, {}),
        lambda nodes: nodes.free.append(2),
        lambda nodes: setattr(nodes, "tokens", 1),
    ],
)
def test_check_sees_damage(nodes, damage):
    damage(nodes)
    with pytest.raises(AssertionError):
        nodes.check()


def full_tree(requests: int, unique: int) -> RadixTree:
    """Requests on 64 workers, in groups of 40 that share a prefix."""
    random_bytes = random.Random(0).randbytes
    tree, prefix = RadixTree(), b""
    for request in range(requests):
        if request % 40 == 0:
            prefix = random_bytes(4 * 6 * unique)
        worker = request % 64
        node = tree.insert(prefix + random_bytes(4 * unique), worker, computed=True)
        tree.unpin(node, worker)
    return tree


def test_memory_is_near_that_of_the_tokens():
    """At 1k-token prompts with 15 % unique, less than 12 bytes for each unique token."""
    tracemalloc.start()
    try:
        tree = full_tree(2000, 150)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used / tree.tokens < 12


def test_the_garbage_collector_sees_no_object_per_node():
    gc.collect()
    before = len(gc.get_objects())
    tree = full_tree(2000, 10)
    gc.collect()
    assert tree.nodes > 2000
    assert len(gc.get_objects()) - before < 64 * 8
    nodes, recency = tree.match(b"").nodes, Recency()
    recency.touch([2, 1])
    for columns in (nodes.edge, nodes.holders, nodes.computed, nodes.children, recency.order):
        assert not gc.is_tracked(columns)
