"""The tree's nodes as columns indexed by node number; node 0 is the root.

There is no object per node: integers live in arrays, everything else in numpy columns of objects, which the garbage
collector does not visit, neither the columns nor the dicts of plain bytes and ints in them. So a full collection takes
no longer with a million nodes than with none. Columns grow in place a little at a time; a dict would copy all its
entries at once, which stops everything for milliseconds. A new column needs its rule in `add`, `split`, `absorb` and
`remove`, and nowhere else.
"""

from __future__ import annotations

from array import array
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from preble.tokens import TOKEN_BYTES

GROWTH = 256
"""How many node numbers are added at a time, at least."""

Column: TypeAlias = NDArray[np.object_]


class Nodes:
    """Columns of a radix tree whose edges are whole blocks of `block_size` tokens.

    =========  ==============================  =============================  ==============================
    column     holds                           split: upper (new), lower      absorb: child takes the upper's
    =========  ==============================  =============================  ==============================
    parent     node number                     lower's old one, upper         parent
    end        depth in tokens at the end      cut, unchanged                 (unchanged)
    edge       packed tokens                   front, rest                    edge, in front of its own
    holders    mask: workers that have it      same, same                     (equal)
    computed   mask: those that computed it    same, same                     (equal)
    pins       requests that end exactly here  none, all                      (the upper had none)
    children   first block -> node number      only the lower, unchanged      place under the upper's parent
    payload    an int per block, or none       front, rest                    payload, in front of its own
    =========  ==============================  =============================  ==============================

    A number stays valid while its node lives; a split leaves it with the lower part, where requests end.
    """

    __slots__ = (
        "block_size", "children", "computed", "edge", "end", "free", "holders", "parent", "payload", "pins", "stride",
        "tokens", "version",
    )  # fmt: skip

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.stride = block_size * TOKEN_BYTES
        self.parent = array("i", [0])
        self.end = array("i", [0])
        self.pins = array("i", [0])
        self.edge: Column = np.array([b""], dtype=object)
        self.holders: Column = np.array([0], dtype=object)
        self.computed: Column = np.array([0], dtype=object)
        self.children: Column = np.array([None], dtype=object)
        self.payload: dict[int, array[int]] = {}
        self.free = array("i")
        self.tokens = 0
        self.version = 0

    @property
    def count(self) -> int:
        """How many nodes there are, without the root."""
        return len(self.parent) - len(self.free) - 1

    def length(self, node: int) -> int:
        """Return the tokens of the node's edge."""
        return len(self.edge[node]) // TOKEN_BYTES

    def path(self, node: int) -> list[int]:
        """Return the nodes from `node` up to the root, which is left out."""
        parent, path = self.parent, []
        while node:
            path.append(node)
            node = parent[node]
        return path

    def path_tokens(self, node: int) -> bytes:
        """Return the packed tokens from the root to the end of `node`."""
        edge = self.edge
        return b"".join([edge[above] for above in reversed(self.path(node))])

    def path_payload(self, node: int) -> array[int]:
        """Return the payload from the root to the end of `node`; nodes without payload add nothing."""
        payload = array("i")
        for above in reversed(self.path(node)):
            payload.extend(self.payload.get(above, ()))
        return payload

    def add(self, parent: int, edge: bytes, payload: array[int] | None) -> int:
        """Add a child without holders under `parent` and return its number."""
        node = self._number()
        self._link(node, parent, edge)
        self.end[node] = self.end[parent] + len(edge) // TOKEN_BYTES
        if payload is not None:
            self.payload[node] = payload
        self.tokens += len(edge) // TOKEN_BYTES
        return node

    def lengthen(self, node: int, tokens: bytes) -> None:
        """Append packed tokens to the edge of a node without children and payload."""
        self.version += 1
        self.edge[node] += tokens
        self.end[node] += len(tokens) // TOKEN_BYTES
        self.tokens += len(tokens) // TOKEN_BYTES

    def split(self, node: int, size: int) -> int:
        """Cut the edge of `node` after `size` bytes and return the new upper node."""
        upper, edge = self._number(), self.edge[node]
        self._link(upper, self.parent[node], edge[:size])
        self._link(node, upper, edge[size:])
        self.end[upper] = self.end[node] - (len(edge) - size) // TOKEN_BYTES
        self.holders[upper] = self.holders[node]
        self.computed[upper] = self.computed[node]
        if (payload := self.payload.get(node)) is not None:
            self.payload[upper] = payload[: size // self.stride]
            self.payload[node] = payload[size // self.stride :]
        return upper

    def absorb(self, upper: int) -> int:
        """Merge `upper` into its only child and return the child. Masks are equal; both or neither have payload."""
        (child,) = self.children[upper].values()
        self._link(child, self.parent[upper], self.edge[upper] + self.edge[child])
        if (payload := self.payload.get(upper)) is not None:
            self.payload[child] = payload + self.payload[child]
        self._forget(upper)
        return int(child)

    def remove(self, node: int) -> None:
        """Remove a node without children."""
        edge, parent = self.edge[node], self.parent[node]
        siblings = self.children[parent]
        del siblings[edge[: self.stride]]
        if not siblings:
            self.children[parent] = None
        self.tokens -= len(edge) // TOKEN_BYTES
        self._forget(node)

    def _number(self) -> int:
        self.version += 1
        if not self.free:
            self._grow()
        return self.free.pop()

    def _grow(self) -> None:
        first = len(self.parent)
        growth = max(GROWTH, first // 64)
        for integers in (self.parent, self.end, self.pins):
            integers.extend([0] * growth)
        for column, blank in ((self.edge, b""), (self.holders, 0), (self.computed, 0), (self.children, None)):
            column.resize(first + growth, refcheck=False)  # in place; nobody keeps a view
            column[first:] = blank
        self.free.extend(range(first + growth - 1, first - 1, -1))

    def _link(self, node: int, parent: int, edge: bytes) -> None:
        self.edge[node] = edge
        self.parent[node] = parent
        siblings = self.children[parent]
        if siblings is None:
            self.children[parent] = {edge[: self.stride]: node}
        else:
            siblings[edge[: self.stride]] = node

    def _forget(self, node: int) -> None:
        self.version += 1
        self.edge[node], self.holders[node], self.computed[node], self.children[node] = b"", 0, 0, None
        self.payload.pop(node, None)
        self.free.append(node)

    def check(self) -> None:
        """Raise AssertionError unless the columns describe one tree, with nothing else in them."""
        reached = [0]
        for node in reached:
            for key, child in (self.children[node] or {}).items():
                self._check_child(node, key, child)
                reached.append(child)
        live = set(reached)
        assert len(live) == len(reached), "a node has two parents"
        assert set(np.flatnonzero(self.edge)) == live - {0}, "edges of unreachable nodes"
        assert set(np.flatnonzero(self.holders)) == live - {0}, "masks of unreachable nodes"
        assert set(np.flatnonzero(self.computed)) <= live - {0}, "masks of unreachable nodes"
        assert all(self.children[node] is None for node in set(range(len(self.parent))) - live), "children of the dead"
        assert set(self.payload) <= live - {0}, "payload of unreachable nodes"
        assert sorted([*live, *self.free]) == list(range(len(self.parent))), "a number is lost or used twice"
        assert self.tokens == sum(map(self.length, live)), "token count"
        assert all(children is None or children for children in self.children), "an empty dict of children"

    def _check_child(self, node: int, key: bytes, child: int) -> None:
        edge, name = self.edge[child], f"node {child}"
        assert self.parent[child] == node, f"{name}: parent"
        assert edge, f"{name}: empty edge"
        assert len(edge) % self.stride == 0, f"{name}: edge is not whole blocks"
        assert key == edge[: self.stride], f"{name}: key is not the first block of its edge"
        assert self.end[child] == self.end[node] + self.length(child), f"{name}: end"
        assert self.pins[child] >= 0, f"{name}: negative pins"
        payload = self.payload.get(child)
        assert payload is None or len(payload) * self.stride == len(edge), f"{name}: payload does not fit its edge"
        assert self.holders[child], f"{name}: nobody holds it"
        assert not self.computed[child] & ~self.holders[child], f"{name}: computed without being held"
        if node:
            assert not self.holders[child] & ~self.holders[node], f"{name}: held without its parent"
            assert not self.computed[child] & ~self.computed[node], f"{name}: computed without its parent"
