"""What an engine holds in its prefix cache, from its KV events: vLLM and SGLang name blocks by hash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec

from preble.backends import Evicted
from preble.errors import EngineError
from preble.tokens import TOKEN_BYTES, pack
from preble.tree import RadixTree

Hash: TypeAlias = int | bytes
"""An engine's name for a block together with all blocks before it. Engines compute it differently, so it is opaque."""

_WORKER = 0  # the one holder in an engine's own trees
_DEVICE = "GPU"  # the name of the memory that engines compute in, also on a CPU


class Stored(msgspec.Struct, frozen=True, tag="BlockStored"):
    """Consecutive blocks were filled with `token_ids`, after the block `parent_block_hash` or at the beginning.

    The cache salt is in `cache_salt` (SGLang), or in the `extra_keys` of the first block of a sequence (vLLM).
    """

    block_hashes: list[Hash]
    token_ids: list[int]
    block_size: int | None = None
    parent_block_hash: Hash | None = None
    medium: str | None = None
    cache_salt: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None

    @property
    def size(self) -> int:
        """The tokens in each block; 0 if the blocks are not whole, or none."""
        size = self.block_size or len(self.token_ids) // max(1, len(self.block_hashes))
        return size if size > 0 and len(self.token_ids) == size * len(self.block_hashes) else 0

    @property
    def salt(self) -> str:
        """The cache salt of blocks at the beginning; empty if there is none, or if the blocks have a parent."""
        first = self.extra_keys[0] if self.extra_keys else None
        return self.cache_salt or next((key for key in first or () if isinstance(key, str)), "")


class Removed(msgspec.Struct, frozen=True, tag="BlockRemoved"):
    """One copy of each of these blocks was evicted."""

    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None


class Cleared(msgspec.Struct, frozen=True, tag="AllBlocksCleared"):
    """Nothing is cached any more."""


class _StoredArray(msgspec.Struct, frozen=True, tag="BlockStored", array_like=True):
    block_hashes: list[Hash]
    parent_block_hash: Hash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None


class _RemovedArray(msgspec.Struct, frozen=True, tag="BlockRemoved", array_like=True):
    block_hashes: list[Hash]
    medium: str | None = None


class _ClearedArray(msgspec.Struct, frozen=True, tag="AllBlocksCleared", array_like=True):
    pass


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    time: float
    events: list[Stored | Removed | Cleared]


class _ArrayBatch(msgspec.Struct, frozen=True, array_like=True):
    time: float
    events: list[_StoredArray | _RemovedArray | _ClearedArray]


_decode_maps = msgspec.msgpack.Decoder(_Batch).decode
_decode_arrays = msgspec.msgpack.Decoder(_ArrayBatch).decode


def decode(body: bytes) -> list[Stored | Removed | Cleared]:
    """Return the events of one published batch, in order. Older engines send arrays instead of maps, newer ones maps.

    Raises EngineError if it is neither.
    """
    try:
        return _decode_maps(body).events
    except msgspec.ValidationError as error:
        try:
            return [_from_array(event) for event in _decode_arrays(body).events]
        except msgspec.ValidationError:
            raise EngineError(f"the engine's KV events are not understood: {error}") from error
    except msgspec.DecodeError as error:
        raise EngineError(f"the engine's KV events are not msgpack: {error}") from error


def _from_array(event: _StoredArray | _RemovedArray | _ClearedArray) -> Stored | Removed | Cleared:
    if isinstance(event, _StoredArray):
        return Stored(
            event.block_hashes, event.token_ids, event.block_size, event.parent_block_hash, medium=event.medium
        )
    return Removed(event.block_hashes, event.medium) if isinstance(event, _RemovedArray) else Cleared()


class _Block:
    """One block: its packed tokens, its place, and the number of copies in the engine.

    A block that has no copy any more is kept while later blocks are known that follow it.
    """

    __slots__ = ("children", "copies", "depth", "name", "parent", "salt", "tokens")

    def __init__(self, name: Hash, parent: _Block | None, tokens: bytes, salt: str) -> None:
        self.name = name
        self.parent = parent
        self.tokens = tokens
        self.salt: str = parent.salt if parent else salt
        self.depth: int = (parent.depth if parent else 0) + len(tokens) // TOKEN_BYTES
        self.copies = 0
        self.children: set[_Block] = set()


class HeldBlocks:
    """An engine's prefix cache as its KV events describe it. Call `apply(decode(body))` for each batch, in order.

    Copies are counted, because vLLM keeps a block twice if two requests computed it at the same time, each with
    its event. A block counts as held if it and all blocks before it have a copy. If one before it is missing, it counts
    again as soon as that is computed again. Blocks in other memories than the device's, and those of KV groups other
    than the first, are ignored.

    `block_size` is what is expected; the first blocks of an empty cache tell what it really is. `misfits` counts the
    events that were left out since, because their blocks are of another size or not whole.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.misfits = 0
        self._blocks: dict[Hash, _Block] = {}
        self._trees: dict[str, RadixTree] = {}
        self._gone: list[Evicted] = []
        self._removed: list[_Block] = []

    def match(self, tokens: bytes, salt: str = "") -> int:
        """Return how many leading tokens of a packed prompt are cached: whole blocks, leaving one token to compute."""
        tree = self._trees.get(salt)
        if tree is None or not tokens:
            return 0
        last = len(tokens) // TOKEN_BYTES - 1
        return min(tree.match(tokens).tokens, last - last % self.block_size)

    def apply(self, events: Iterable[Stored | Removed | Cleared]) -> None:
        """Take in what happened."""
        for event in events:
            if isinstance(event, Cleared):
                if self._blocks:  # otherwise the event may be late, of a reset that is known, and blocks came since
                    self.forget()
            elif event.medium not in (None, _DEVICE) or event.group_idx:
                continue
            elif isinstance(event, Stored):
                self._settle()
                self._store(event)
            else:
                for name in event.block_hashes:
                    self._remove(name)
        self._settle()

    def forget(self) -> None:
        """Forget all blocks, because the cache was cleared or events were lost for good."""
        self._blocks.clear()
        self._trees.clear()
        self._removed.clear()
        self._gone = [Evicted(b"", 0)]

    def evicted(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order, without those computed again meanwhile."""
        gone, self._gone = self._gone, []
        return [each for evicted in gone if (each := self._still(evicted)) is not None]

    def held(self) -> set[tuple[str, bytes]]:
        """Return every held block as its salt and the packed tokens from the beginning to its end. For tests: slow."""
        return {(block.salt, _path(block)) for block in self._blocks.values() if _reachable(block)}

    def check(self) -> None:
        """Raise AssertionError if blocks and trees disagree."""
        assert not self._removed, "removals that are not settled"
        for name, block in self._blocks.items():
            assert block.name == name, "a block under another's name"
            assert block.copies > 0 or block.children, "a block that nobody needs is kept"
            above = block.parent
            assert above is None or (block in above.children and self._blocks[above.name] is above), "not linked"
        paths = self.held()
        for salt, tree in self._trees.items():
            tree.check()
            own = sum(1 for each, _ in paths if each == salt)
            assert tree.held_tokens(_WORKER) == own * self.block_size, "the tree holds other blocks than there are"
        assert all(self._trees[salt].match(path).tokens * TOKEN_BYTES == len(path) for salt, path in paths), "missing"

    def _store(self, event: Stored) -> None:
        parent = None if event.parent_block_hash is None else self._blocks.get(event.parent_block_hash)
        if not self._fits(size := event.size):
            self.misfits += 1
            return
        if parent is None and event.parent_block_hash is not None:
            return  # it follows blocks that are not known, so that no prompt could be compared with it
        packed = pack(event.token_ids)
        revived = []
        block = parent
        for index, name in enumerate(event.block_hashes):
            tokens = packed[index * size * TOKEN_BYTES : (index + 1) * size * TOKEN_BYTES]
            block = self._block(name, block, tokens, event.salt)
            if not block.copies and block.children:
                revived.append(block)
            block.copies += 1
        if block is not None and _reachable(block):
            self._hold([block])
            self._hold_below(revived)

    def _fits(self, size: int) -> bool:
        """Whether blocks are of the size of the others. If there are no others, theirs is that size from now on."""
        if size and not self._blocks:
            self.block_size = size
        return size == self.block_size

    def _block(self, name: Hash, parent: _Block | None, tokens: bytes, salt: str) -> _Block:
        block = self._blocks.get(name)
        if block is None:
            block = self._blocks[name] = _Block(name, parent, tokens, salt)
            if parent:
                parent.children.add(block)
        return block

    def _hold_below(self, blocks: list[_Block]) -> None:
        """Hold the blocks that follow `blocks`, which were missing and are there again."""
        while blocks:
            blocks = [child for block in blocks for child in block.children if child.copies]
            self._hold(blocks)

    def _hold(self, blocks: list[_Block]) -> None:
        for block in blocks:
            tree = self._trees.get(block.salt)
            if tree is None:
                tree = self._trees[block.salt] = RadixTree(block_size=self.block_size)
            tree.insert(_path(block), _WORKER, pin=False, computed=True)

    def _remove(self, name: Hash) -> None:
        block = self._blocks.get(name)
        if block is None or not block.copies:
            return
        # Engines evict the last block of a prefix first and then those before it: that becomes one eviction. Settling
        # drops blocks without a copy, so it must come before this block loses its last copy.
        if self._removed and self._removed[-1].parent is not block:
            self._settle()
        block.copies -= 1
        if not block.copies:
            self._removed.append(block)

    def _settle(self) -> None:
        """Turn the removals of consecutive blocks into one eviction."""
        if not self._removed:
            return
        bottom, top = self._removed[0], self._removed[-1]
        if top.parent is None or _reachable(top.parent):
            path, keep = _path(bottom), top.depth - self.block_size
            tree = self._trees[bottom.salt]
            tree.truncate(path, keep, _WORKER)
            if not tree.held_tokens(_WORKER):
                del self._trees[bottom.salt]
            self._gone.append(Evicted(path, keep, bottom.salt))
        self._removed.clear()
        self._drop(bottom)

    def _drop(self, block: _Block | None) -> None:
        """Delete a block that is needed no more, and the blocks before it that were kept only because of it."""
        while block is not None and not block.copies and not block.children:
            del self._blocks[block.name]
            if block.parent:
                block.parent.children.discard(block)
            block = block.parent

    def _still(self, evicted: Evicted) -> Evicted | None:
        """Return the part of an eviction whose tokens have not been computed again; None if all have."""
        tree = self._trees.get(evicted.cache_salt)
        held = tree.match(evicted.tokens).tokens if tree and evicted.tokens else 0
        if held * TOKEN_BYTES == len(evicted.tokens) and evicted.tokens:
            return None
        return Evicted(evicted.tokens, max(evicted.keep, held), evicted.cache_salt)


def _path(block: _Block) -> bytes:
    parts = [block.tokens]
    while block.parent:
        block = block.parent
        parts.append(block.tokens)
    return b"".join(reversed(parts))


def _reachable(block: _Block | None) -> bool:
    while block is not None and block.copies:
        block = block.parent
    return block is None
