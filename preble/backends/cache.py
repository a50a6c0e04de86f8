"""The KV blocks of one engine: which sequence uses which, and which cached prefixes they hold."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from preble.backends import Evicted
from preble.tokens import TOKEN_BYTES
from preble.tree import RadixTree

_WORKER = 0  # the one holder in an engine's own tree


class Lease:
    """A running sequence's KV blocks, in order. The first `shared` are in the prefix tree, the others are private."""

    __slots__ = ("blocks", "node", "shared")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.shared = 0
        self.node = 0


class BlockCache:
    """A fixed pool of KV blocks, and a prefix cache over those that hold computed tokens.

    A block is free, in the tree (where any sequence may lease it), or private to one lease. Only whole blocks are
    shared. What no lease uses is evicted, least recently used leaf first, when a lease needs room.
    """

    def __init__(self, kv_tokens: int, block_size: int) -> None:
        self.block_size = block_size
        self.total = kv_tokens // block_size
        self.leased = 0
        self._block_bytes = block_size * TOKEN_BYTES
        self._free = list(range(self.total - 1, -1, -1))
        self._users = [0] * self.total
        self._tree = RadixTree(block_size=block_size)
        self._evicted: list[Evicted] = []

    @property
    def available(self) -> int:
        """Number of blocks that no sequence uses: the free ones, and the cached ones that may be evicted."""
        return self.total - self.leased

    def has_prefix_token(self, first: bytes) -> bool:
        """Return whether a prefix that is cached, or in the next `evicted`, has this packed first token."""
        return self._tree.has_prefix_token(first) or any(evicted.tokens.startswith(first) for evicted in self._evicted)

    def match(self, tokens: bytes) -> int:
        """Return how many leading tokens of a prompt are cached: whole blocks, leaving at least one to compute."""
        return min(self._tree.match(tokens).tokens, self._cacheable(tokens))

    def acquire(self, tokens: bytes) -> Lease:
        """Lease the cached prefix of a prompt, of `match(tokens)` tokens. It stays until `release`."""
        lease = Lease()
        match = self._tree.match(tokens)
        cached = min(match.tokens, self._cacheable(tokens))
        if cached:
            lease.shared = cached // self.block_size
            lease.blocks = match.payload()[: lease.shared].tolist()
            lease.node = self._tree.insert(tokens[: cached * TOKEN_BYTES], _WORKER)
            self._use(lease.blocks)
        return lease

    def extend(self, lease: Lease, tokens: int, *, spare: int = 0) -> bool:
        """Give `lease` room for `tokens` tokens in all, evicting if need be.

        Returns False, with nothing changed, if that would leave fewer than `spare` blocks available.
        """
        missing = -(-tokens // self.block_size) - len(lease.blocks)
        if missing <= 0:
            return True
        if missing + spare > self.available:
            return False
        if missing > len(self._free):
            self._evict(missing - len(self._free))
        blocks = [self._free.pop() for _ in range(missing)]
        lease.blocks += blocks
        self._use(blocks)
        return True

    def store(self, lease: Lease, tokens: bytes | bytearray, computed: int) -> None:
        """Share the whole blocks among the first `computed` tokens of a lease's sequence.

        Where another sequence stored the same tokens first, the lease moves to its blocks and frees its own.
        """
        whole = computed // self.block_size
        if whole <= lease.shared:
            return
        prefix = bytes(memoryview(tokens)[: whole * self._block_bytes])
        match = self._tree.match(prefix)
        if match.tokens > lease.shared * self.block_size:
            self._move(lease, match.payload())
        node = self._tree.insert(prefix, _WORKER, match=match, computed=True, payload=array("i", lease.blocks[:whole]))
        self._unpin(lease)
        lease.node, lease.shared = node, whole

    def release(self, lease: Lease) -> None:
        """End a lease: its private blocks are free, its shared ones stay cached.

        `lease.blocks` stays as it was, for a step in progress that reads it.
        """
        for block in lease.blocks:
            self._disuse(block)
        self._free += lease.blocks[lease.shared :]
        self._unpin(lease)

    def reset(self) -> None:
        """Forget every cached prefix that no lease uses."""
        if self.leased == 0:
            self._tree = RadixTree(block_size=self.block_size)
            self._free = list(range(self.total - 1, -1, -1))
            self._evicted = [Evicted(b"", 0)]
        else:
            self._evict(self.available - len(self._free))

    def evicted(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def check(self, leases: Iterable[Lease]) -> None:
        """Raise AssertionError unless each block is free, in the tree, or private to one of `leases`."""
        leases = list(leases)
        self._tree.check()
        private = [block for lease in leases for block in lease.blocks[lease.shared :]]
        cached = self._tree.held_tokens(_WORKER) // self.block_size
        owned = self._free + private
        assert len(set(owned)) == len(owned), "a block is free or private twice"
        assert len(owned) + cached == self.total, f"{len(owned)} + {cached} cached blocks are not {self.total}"
        users = [0] * self.total
        for lease in leases:
            assert self._tree.depth(lease.node) == lease.shared * self.block_size, "a lease pins more than it shares"
            for block in lease.blocks:
                users[block] += 1
        assert users == self._users, "use counts differ from the leases"
        assert self.leased == sum(map(bool, users)), "the count of leased blocks is off"
        assert not any(users[block] for block in self._free), "a leased block is free"
        assert all(users[block] == 1 for block in private), "a private block is leased twice"

    def _cacheable(self, tokens: bytes) -> int:
        length = len(tokens) // TOKEN_BYTES
        return (length - 1) // self.block_size * self.block_size if length else 0

    def _move(self, lease: Lease, blocks: array[int]) -> None:
        own = lease.blocks[lease.shared : len(blocks)]
        shared = blocks[lease.shared :]
        self._use(shared)
        for block in own:
            self._disuse(block)
        self._free += own
        lease.blocks[lease.shared : len(blocks)] = shared

    def _use(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self.leased += not self._users[block]
            self._users[block] += 1

    def _disuse(self, block: int) -> None:
        self._users[block] -= 1
        self.leased -= not self._users[block]

    def _unpin(self, lease: Lease) -> None:
        if lease.node:
            self._tree.unpin(lease.node, _WORKER)

    def _evict(self, blocks: int) -> None:
        for path, keep, freed in self._tree.evict(_WORKER, blocks * self.block_size):
            self._evicted.append(Evicted(path, keep))
            self._free += freed or ()
