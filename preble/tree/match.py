"""What a walk down the tree finds."""

from __future__ import annotations

from array import array

import msgspec

from preble.errors import StateError
from preble.tree.nodes import Nodes


class Match(msgspec.Struct, frozen=True, gc=False):
    """The part of `prompt` that a tree holds, at the moment of the walk.

    `tokens` is the length that anyone holds. `levels` are (depth in tokens, mask of workers that hold that much) from
    the root downwards; depths grow and masks strictly shrink, so the last level with a worker's bit is its length.
    `node` and `offset` (tokens of its edge that matched) say where the walk ended, `version` of which tree: a match
    made before the tree's shape changed keeps its lengths but is no cursor any more.
    """

    prompt: bytes
    tokens: int
    levels: list[tuple[int, int]]
    nodes: Nodes
    node: int
    offset: int
    version: int

    @property
    def stale(self) -> bool:
        """Whether the tree's shape changed since."""
        return self.version != self.nodes.version

    def length(self, worker: int) -> int:
        """Return how many tokens `worker` holds, computed or in flight. O(levels)."""
        for depth, mask in reversed(self.levels):
            if mask >> worker & 1:
                return depth
        return 0

    def computed_length(self, worker: int) -> int:
        """Return how many tokens `worker` is known to have computed. O(path). Raises StateError if stale."""
        node, depth = self._cursor(), self.tokens
        computed, parent, end = self.nodes.computed, self.nodes.parent, self.nodes.end
        while node and not computed[node] >> worker & 1:
            node = parent[node]
            depth = end[node]
        return depth

    def payload(self) -> array[int]:
        """Return the payload of the matched whole blocks, one int each. Raises StateError if stale."""
        payload = self.nodes.path_payload(self._cursor())
        return payload[: self.tokens // self.nodes.block_size]

    def _cursor(self) -> int:
        if self.stale:
            raise StateError("the tree changed after this match")
        return self.node
