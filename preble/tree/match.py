"""The result of a walk down the tree."""

from __future__ import annotations

from array import array

import msgspec

from preble.errors import StateError
from preble.tree.nodes import Nodes


class Match(msgspec.Struct, frozen=True, gc=False):
    """The part of `prompt` that a tree holds, at the moment of the walk.

    Example: worker 0 holds the first 10 tokens of the prompt and worker 1 the first 6. Then `tokens` is 10, and
    `levels` is `[(6, 0b11), (10, 0b01)]`: pairs of a depth in tokens and the mask of the workers that hold so many,
    from the root down. Depths grow and masks shrink, so the last level with a worker's bit has the length that it
    holds.

    The walk ended at `node`, after `offset` tokens of its edge. `version` is that of the tree's shape: once the shape
    has changed the match is `stale`. Its lengths stay true for the moment of the walk; its node must not be used.
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
        """Whether the tree's shape has changed since the walk."""
        return self.version != self.nodes.version

    def length(self, worker: int) -> int:
        """Return how many tokens `worker` holds, computed or in flight. O(levels)."""
        for depth, mask in reversed(self.levels):
            if mask >> worker & 1:
                return depth
        return 0

    def computed_length(self, worker: int) -> int:
        """Return how many tokens `worker` has computed. O(path). Raises StateError if stale."""
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
