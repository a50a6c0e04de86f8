"""The radix tree: which worker holds which prefix, computed or in flight."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from preble.errors import StateError
from preble.tokens import TOKEN_BYTES
from preble.tree.holding import Holding
from preble.tree.match import Match
from preble.tree.nodes import Nodes
from preble.tree.walk import walk

MERGE_HOLDERS = 8
"""Nodes of more workers are not merged: a merge takes a step for each worker, and a later prompt may split it again."""


class Eviction(NamedTuple):
    """A worker evicted the path `tokens` (packed, from the root) beyond its first `keep` tokens.

    `payload` is the payload of what was evicted, if no other worker holds it, else None.
    """

    tokens: bytes
    keep: int
    payload: array[int] | None


class RadixTree:
    """Prefixes of packed tokens, each with the workers that hold it.

    Example: after `node = tree.insert(prompt, worker=2)` the tree knows that worker 2 will have `prompt` in its cache;
    `tree.mark_computed(node, 2)` says that it has, and `tree.unpin(node, 2)` that the request is over.

    Workers are small ints. Nodes are ints too, and 0 is the root. A worker *holds* a node if it has *computed* it, or
    if one of its requests is *pinned* at the node or below. `block_size` is the granularity in tokens: what is left of
    a prompt after its whole blocks is ignored. Every method is O(path) unless it says otherwise.
    """

    def __init__(self, *, block_size: int = 1) -> None:
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1 token, not {block_size}")
        self._nodes = Nodes(block_size)
        self._holdings: list[Holding] = []

    @property
    def nodes(self) -> int:
        """How many nodes there are, without the root."""
        return self._nodes.count

    @property
    def tokens(self) -> int:
        """How many unique tokens are stored."""
        return self._nodes.tokens

    def depth(self, node: int) -> int:
        """Return the tokens from the root to the end of `node`."""
        return self._nodes.end[node]

    def parent(self, node: int) -> int:
        """Return the node above `node`; 0, the root, is above itself."""
        return self._nodes.parent[node]

    def path(self, node: int) -> bytes:
        """Return the packed tokens from the root to the end of `node`."""
        return self._nodes.path_tokens(node)

    def held_tokens(self, worker: int) -> int:
        """Return how many tokens `worker` holds."""
        return self._holdings[worker].tokens if worker < len(self._holdings) else 0

    def pins(self, worker: int) -> dict[int, int]:
        """Return how many requests of `worker` are pinned at each node, as a copy."""
        return dict(self._holdings[worker].pins) if worker < len(self._holdings) else {}

    def pins_below(self, node: int, worker: int) -> int:
        """Return how many requests of `worker` are pinned at `node` or below; 0 if it has computed the node. O(1)."""
        return self._holdings[worker].pending.get(node, 0) if worker < len(self._holdings) else 0

    def victims(self, worker: int, tokens: int) -> Iterator[tuple[int, int]]:
        """Yield the nodes that `evict` would take now, in its order, each with the tokens that it would lose.

        The tree stays as it is, and must not change before the iteration ends. If an eviction lets a parent merge with
        its other child, `evict` takes those two together; here each of them has its own place in the order.
        """
        nodes = self._nodes
        leaving = self._holdings[worker].leaving(nodes) if worker < len(self._holdings) else iter(())
        while tokens > 0 and (node := next(leaving, None)) is not None:
            gone = min(nodes.length(node), tokens + -tokens % nodes.block_size)
            yield node, gone
            tokens -= gone

    def has_prefix_token(self, first: bytes) -> bool:
        """Return whether anyone holds a prefix whose first token is `first`, packed. O(prefixes) for larger blocks."""
        firsts = self._nodes.children[0] or {}
        return first in firsts or (self._nodes.block_size > 1 and any(block.startswith(first) for block in firsts))

    def match(self, tokens: bytes) -> Match:
        """Return how much of the packed `tokens` is held, and by whom. Changes nothing."""
        nodes = self._nodes
        levels, length, node, offset = walk(tokens, nodes.stride, nodes.edge, nodes.children, nodes.holders)
        return Match(tokens, length, levels, nodes, node, offset, nodes.version)

    def insert(
        self,
        tokens: bytes,
        worker: int,
        *,
        match: Match | None = None,
        pin: bool = True,
        computed: bool = False,
        payload: array[int] | None = None,
    ) -> int:
        """Make `worker` hold the packed `tokens`, and return the node where they end.

        With `pin`, a request of the worker is registered there, until `unpin` of the returned node. With `computed`,
        all tokens are marked as computed. At least one of the two is needed. A `match` of the same tokens saves the
        walk; a stale one is ignored. `payload` has an int for each whole block, such as an engine's block id; it is
        kept for blocks that are new to the tree. Without a pin, the returned node may reach below the tokens. Returns
        0, the root, if the tokens fill no block. Raises ValueError without pin and computed, or if the payload has
        another length.
        """
        if not pin and not computed:
            raise ValueError("what is neither pinned nor computed is held by nobody")
        nodes = self._nodes
        if payload is not None and len(payload) != len(tokens) // nodes.stride:
            raise ValueError(f"a payload of {len(payload)} for {len(tokens) // nodes.stride} whole blocks of tokens")
        if match is None or match.version != nodes.version or match.prompt is not tokens or match.nodes is not nodes:
            match = self.match(tokens)
        node = self._extend(match, payload)
        if node:
            self._hold(node, worker, pin)
            if computed:
                self.mark_computed(node, worker)
        return node if pin else self._merge(node)

    def extend(self, node: int, tokens: bytes, worker: int) -> None:
        """Register that `worker`, which has computed `node` and is pinned there, has computed `tokens` below it too.

        This equals inserting the path with the tokens as computed. If nobody else is at the node or below, its edge
        grows instead, without a walk. Needs a block size of 1 and no payload. Raises StateError if the worker has no
        pin at the node.
        """
        nodes, bit = self._nodes, 1 << worker
        holding = self._pinned_holding(node, worker)
        if not tokens:
            return
        if nodes.children[node] or nodes.pins[node] > 1 or nodes.computed[node] != bit or nodes.holders[node] != bit:
            self.insert(self.path(node) + tokens, worker, pin=False, computed=True)
            return
        nodes.lengthen(node, tokens)
        holding.tokens += len(tokens) // TOKEN_BYTES
        holding.recency.touch(nodes.path(node))

    def mark_computed(self, node: int, worker: int) -> None:
        """Register that `worker` has computed the path down to `node`. Raises StateError if it does not hold it."""
        nodes, bit = self._nodes, 1 << worker
        self._require_held(node, bit)
        computed, parent = nodes.computed, nodes.parent
        below = node
        while node and not computed[node] & bit:
            computed[node] |= bit
            self._holdings[worker].pending.pop(node, None)
            node = parent[node]
        if node != below:
            self._merge(node)

    def touch(self, node: int, worker: int) -> None:
        """Make the path down to `node` the most recently used of `worker`. Raises StateError if it is not held."""
        self._require_held(node, 1 << worker)
        if node:
            self._holdings[worker].recency.touch(self._nodes.path(node))

    def pin(self, node: int, worker: int) -> None:
        """Pin a request of `worker` at `node`: the same as inserting its path, without the walk.

        The root (0) is ignored. Raises StateError for a node that nobody holds.
        """
        if not node:
            return
        if not (0 < node < len(self._nodes.parent) and self._nodes.holders[node]):
            raise StateError(f"there is no node {node}")
        self._hold(node, worker, True)

    def unpin(self, node: int, worker: int) -> None:
        """Undo one pin of `worker` at `node`. It no longer holds what it has neither computed nor pinned otherwise.

        Raises StateError if there is no such pin.
        """
        if not node:
            return
        holding = self._pinned_holding(node, worker)
        holding.unpin(node)
        self._nodes.pins[node] -= 1
        pending = holding.pending
        while pending.get(node) == 1:
            node = self._drop(node, worker)
        above = node
        while above in pending:
            pending[above] -= 1
            above = self._nodes.parent[above]
        self._merge(node)

    def evict(self, worker: int, tokens: int, *, paths: bool = True) -> list[Eviction]:
        """Evict at least `tokens` tokens of `worker`, in whole blocks, the least recently used leaf first.

        Returns what was evicted. Nodes are cut from their lower end. Pinned nodes stay, and become recently used, so
        less than `tokens` may be evicted. Without `paths`, the `tokens` of the evictions are empty: copying them is
        most of the work. O(path) for each eviction and for each pin on the way.
        """
        evictions: list[Eviction] = []
        if worker >= len(self._holdings):
            return evictions
        holding, refreshed = self._holdings[worker], set[int]()
        while tokens > 0 and (node := holding.recency.oldest()) is not None and node not in refreshed:
            if node in holding.pins:
                refreshed.add(node)
                self.touch(node, worker)
            else:
                held = holding.tokens
                path = self.path(node) if paths else b""
                keep, payload = self._evict_leaf(node, worker, tokens)
                evictions.append(Eviction(path, keep, payload))
                tokens -= held - holding.tokens
        return evictions

    def truncate(self, tokens: bytes, keep: int, worker: int, *, worker_block_size: int = 1) -> None:
        """Register that `worker` no longer holds the path `tokens` beyond its first `keep` tokens, nor anything below.

        Prefixes that leave the path at or before `keep` are untouched; so are those that leave it inside the next
        `worker_block_size` tokens, for a worker that keeps whole blocks: theirs is another block. What pins need stays
        held, but is no longer computed. O(path + nodes below).
        """
        nodes, bit = self._nodes, 1 << worker
        match = self.match(tokens)
        keep = max(0, keep - keep % nodes.block_size)
        cut = (keep + worker_block_size - 1) // nodes.block_size * nodes.block_size
        node, parent, whole = match.node, nodes.parent, match.offset == nodes.length(match.node)
        while nodes.end[parent[node]] > cut:
            node = parent[node]
        if match.tokens > cut and nodes.holders[node] & bit:
            if upper := cut - nodes.end[parent[node]]:
                self._split(node, upper * TOKEN_BYTES)
            above = parent[node]
            self._unmark_computed(self._held_below(node, bit), worker)
            self._trim(above, keep, worker)
        elif match.tokens > cut or whole or not nodes.holders[node] & bit:
            while node and not nodes.holders[node] & bit:
                node = parent[node]
            self._trim(node, keep, worker)

    def _trim(self, node: int, keep: int, worker: int) -> None:
        """Drop from the end of the path to `node` what is beyond `keep` and nothing that the worker holds needs."""
        nodes, bit = self._nodes, 1 << worker
        while nodes.end[node] > keep and nodes.holders[node] & bit and node not in self._holdings[worker].pins:
            if any(nodes.holders[child] & bit for child in (nodes.children[node] or {}).values()):
                break
            if (upper := keep - nodes.end[nodes.parent[node]]) > 0:
                self._split(node, upper * TOKEN_BYTES)
            node = self._drop(node, worker)
        self._merge(node)

    def clear(self, worker: int) -> None:
        """Forget what `worker` has computed; only what its pins need stays held. O(n log n) in what it holds."""
        if worker < len(self._holdings):
            self._unmark_computed(self._holdings[worker].all(self._nodes), worker)

    def remove_worker(self, worker: int) -> None:
        """Forget `worker` and all its pins; its number can be used anew. O(n log n) in what it holds."""
        if worker < len(self._holdings):
            pins = self._holdings[worker].pins
            for node, count in pins.items():
                self._nodes.pins[node] -= count
            pins.clear()
            self.clear(worker)

    def _extend(self, match: Match, payload: array[int] | None) -> int:
        """Add what `match` lacks of its prompt; return the node where the prompt ends."""
        nodes, node, start = self._nodes, match.node, match.tokens * TOKEN_BYTES
        if match.offset * TOKEN_BYTES < len(nodes.edge[node]):
            node = self._split(node, match.offset * TOKEN_BYTES)
        stop = len(match.prompt) - len(match.prompt) % nodes.stride
        if start < stop:
            own = None if payload is None else array("i", payload[match.tokens // nodes.block_size :])
            node = nodes.add(node, match.prompt[start:stop], own)
        return node

    def _hold(self, leaf: int, worker: int, pin: bool) -> None:
        """Set the worker's bit on the path to `leaf`, make it recently used, and pin it if `pin`."""
        while worker >= len(self._holdings):
            self._holdings.append(Holding())
        nodes, holding, bit = self._nodes, self._holdings[worker], 1 << worker
        holders, computed, edge, pending = nodes.holders, nodes.computed, nodes.edge, holding.pending
        path = nodes.path(leaf)
        for node in path:
            if computed[node] & bit:
                break
            if not holders[node] & bit:
                holders[node] |= bit
                holding.tokens += len(edge[node]) // TOKEN_BYTES
            if pin:
                pending[node] = pending.get(node, 0) + 1
        holding.recency.touch(path)
        if pin:
            nodes.pins[leaf] += 1
            holding.pins[leaf] = holding.pins.get(leaf, 0) + 1

    def _split(self, node: int, size: int) -> int:
        """Cut the edge of `node` after `size` bytes; return the new upper node.

        A step for each worker that is computing this edge just now, none for those that have it.
        """
        nodes = self._nodes
        upper = nodes.split(node, size)
        for worker in _workers(nodes.holders[node] & ~nodes.computed[node]):
            self._holdings[worker].split(node, upper)
        return upper

    def _merge(self, node: int) -> int:
        """Let the only child of `node` absorb it if nothing tells them apart; return the node that is left."""
        nodes = self._nodes
        children = nodes.children[node]
        if not node or children is None or len(children) != 1 or nodes.pins[node]:
            return node
        (child,) = children.values()
        holders = nodes.holders[node]
        # Without pins at the node, equal computed masks imply equal holders.
        alike = nodes.computed[node] == nodes.computed[child] and (node in nodes.payload) == (child in nodes.payload)
        if not alike or holders.bit_count() > MERGE_HOLDERS:
            return node
        for worker in _workers(holders):
            self._holdings[worker].absorb(node, child)
        return nodes.absorb(node)

    def _drop(self, node: int, worker: int) -> int:
        """Take `node`, a leaf of what `worker` holds, from it; return the parent. The node goes if nobody holds it."""
        nodes, holding, bit = self._nodes, self._holdings[worker], 1 << worker
        above = nodes.parent[node]
        holding.tokens -= nodes.length(node)
        holding.pending.pop(node, None)
        holding.recency.replace(node, above)
        nodes.computed[node] &= ~bit
        nodes.holders[node] &= ~bit
        if nodes.holders[node]:
            self._merge(node)
        else:
            nodes.remove(node)
        return above

    def _evict_leaf(self, node: int, worker: int, tokens: int) -> tuple[int, array[int] | None]:
        """Drop up to `tokens` tokens, rounded up to blocks, from the lower end of `node`, an unpinned leaf.

        Return the tokens kept of its path, and the payload dropped.
        """
        nodes, length, depth = self._nodes, self._nodes.length(node), self._nodes.end[node]
        gone = min(length, tokens + -tokens % nodes.block_size)
        if gone < length:
            self._split(node, (length - gone) * TOKEN_BYTES)
        payload = nodes.payload.get(node) if nodes.holders[node] == 1 << worker else None
        self._merge(self._drop(node, worker))
        return depth - gone, payload

    def _unmark_computed(self, held: list[int], worker: int) -> None:
        """Forget that `worker` computed the nodes `held`, children before parents; drop those that no pin needs."""
        nodes, holding, bit = self._nodes, self._holdings[worker], 1 << worker
        below: dict[int, int] = {}
        for node in held:
            above = nodes.parent[node]
            pins = holding.pins.get(node, 0) + below.get(node, 0)
            if pins:
                nodes.computed[node] &= ~bit
                holding.pending[node] = pins
                below[above] = below.get(above, 0) + pins
                self._merge(node)
            else:
                self._drop(node, worker)

    def _held_below(self, top: int, bit: int) -> list[int]:
        """Return the nodes of the subtree of `top` that the worker of `bit` holds, children before parents."""
        nodes, found = self._nodes, [top]
        for node in found:
            found.extend(child for child in (nodes.children[node] or {}).values() if nodes.holders[child] & bit)
        return found[::-1]

    def _require_held(self, node: int, bit: int) -> None:
        holders = self._nodes.holders
        if node and not (0 < node < len(holders) and holders[node] & bit):
            raise StateError(f"worker {bit.bit_length() - 1} does not hold node {node}")

    def _pinned_holding(self, node: int, worker: int) -> Holding:
        if worker < len(self._holdings) and node in self._holdings[worker].pins:
            return self._holdings[worker]
        raise StateError(f"worker {worker} has no pin at node {node}")

    def check(self) -> None:
        """Raise AssertionError unless every invariant holds, derived from scratch. O(nodes x workers)."""
        self._nodes.check()
        pins: Counter[int] = Counter()
        for worker, holding in enumerate(self._holdings):
            holding.check(self._nodes, worker)
            pins.update(holding.pins)
        total = {node: count for node, count in enumerate(self._nodes.pins) if count}
        assert total == pins, "pins of nodes are not those of the workers"
        known = 1 << len(self._holdings)
        assert all(mask < known for mask in self._nodes.holders), "a holder that is no worker"


def _workers(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
