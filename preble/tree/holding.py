"""What one worker holds of the tree, apart from the bits in the masks of the nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from preble.tree.nodes import Nodes
from preble.tree.recency import Recency


class Holding:
    """One worker's part of the tree.

    `tokens` is the sum of the lengths of the edges that it holds. `pins` counts its requests by the node where they
    end. `pending` counts, for every node that it holds but has not computed, its pins at the node or below; at zero the
    worker no longer holds the node. `recency` is its order of eviction.
    """

    __slots__ = ("pending", "pins", "recency", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.recency = Recency()
        self.pins: dict[int, int] = {}
        self.pending: dict[int, int] = {}

    def split(self, node: int, upper: int) -> None:
        """Follow a split of a node that is in flight here: the pins at or below `node` are below `upper` too."""
        self.pending[upper] = self.pending[node]

    def absorb(self, upper: int, child: int) -> None:
        """Follow a merge: `upper` had no pins and this one child, so `child` already counts the same."""
        self.pending.pop(upper, None)
        self.recency.replace(upper, child)

    def unpin(self, node: int) -> None:
        """Take one pin away. Raises KeyError if there is none."""
        self.pins[node] -= 1
        if not self.pins[node]:
            del self.pins[node]

    def leaving(self, nodes: Nodes) -> Iterator[int]:
        """Yield the nodes that no pin needs in the order of eviction, the least recently used leaf first."""
        needed: set[int] = set()
        for oldest in self.recency:
            if oldest in self.pins:
                needed.update(nodes.path(oldest))
            node = oldest
            while node and node not in needed and (node == oldest or node not in self.recency.order):
                yield node
                node = nodes.parent[node]

    def all(self, nodes: Nodes) -> list[int]:
        """Return every node held, children before parents. O(n log n)."""
        held: set[int] = set()
        for leaf in self.recency.order:
            node = leaf
            while node and node not in held:
                held.add(node)
                node = nodes.parent[node]
        return sorted(held, key=nodes.end.__getitem__, reverse=True)

    def check(self, nodes: Nodes, worker: int) -> None:
        """Raise AssertionError unless this agrees with the masks of `nodes`."""
        name, bit = f"worker {worker}", 1 << worker
        held = {node for node, mask in enumerate(nodes.holders) if mask & bit}
        computed = {node for node, mask in enumerate(nodes.computed) if mask & bit}
        assert self.tokens == sum(map(nodes.length, held)), f"{name}: held tokens"
        assert all(count > 0 for count in self.pins.values()), f"{name}: empty pins"
        assert set(self.pins) <= held, f"{name}: pins where it holds nothing"
        below: Counter[int] = Counter()
        for node, count in self.pins.items():
            below.update(dict.fromkeys(nodes.path(node), count))
        assert held == computed | set(below), f"{name}: holds what is neither computed nor pinned, or the reverse"
        assert self.pending == {node: below[node] for node in held - computed}, f"{name}: pending pins"
        self.recency.check()
        self._check_order(nodes, held, name)

    def _check_order(self, nodes: Nodes, held: set[int], name: str) -> None:
        order = self.recency.order
        assert set(order) <= held, f"{name}: orders what it does not hold"
        last: dict[int, int] = {}
        for node in sorted(held, key=nodes.end.__getitem__, reverse=True):
            children = [last[child] for child in (nodes.children[node] or {}).values() if child in held]
            assert node in order or len(children) == 1, f"{name}: node {node} has no place in its order"
            last[node] = order.get(node, max(children, default=-1))
            assert all(child <= last[node] for child in children), f"{name}: node {node} is older than a child"
