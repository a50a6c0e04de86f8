"""Attention over a paged KV cache: prefill spans one by one, decodes together."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from preble.backends.torch.batch import Batch, Indexes, buckets
from preble.backends.torch.config import ModelConfig

_WORKSPACE = {"cpu": 4 << 20, "cuda": 256 << 20}
"""The most bytes of K and V that are gathered at once for decodes: on a CPU as many as its caches hold."""


class Decodes(msgspec.Struct, frozen=True):
    """Sequences with one row each, in rows `first` to `last`: `pool_rows` of K and V to gather, padding masked out.

    `mask` is [sequences * KV heads, 1, tokens], 0 or minus infinity.
    """

    first: int
    last: int
    pool_rows: Tensor
    mask: Tensor


class Prefill(msgspec.Struct, frozen=True):
    """A span of several rows of one sequence; `pool_rows` and `mask` [rows, length] only if part of it is cached."""

    first: int
    last: int
    length: int
    pool_rows: Tensor | None
    mask: Tensor | None


class AttentionMetadata(msgspec.Struct, frozen=True):
    """Where each row of a batch writes its K and V, and which K and V it attends to; the same for all layers.

    `rows` are the rows of a pool that K and V are written to.
    """

    rows: Tensor
    decodes: tuple[Decodes, ...]
    prefills: tuple[Prefill, ...]


class PagedAttention:
    """KV pools of all layers, and attention over them.

    A block holds `block_size` tokens of every K head, then of every V head: gathering a sequence's blocks head by
    head gives contiguous [heads, tokens, head_dim], which matrix multiplication wants.
    """

    def __init__(
        self, config: ModelConfig, *, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._heads = config.heads
        self._kv_heads = config.kv_heads
        self._head_dim = config.head_dim
        self._scale = config.head_dim**-0.5
        self._block_size = block_size
        self._dtype = dtype
        self._device = device
        self._most = _WORKSPACE[device.type] // block_bytes(config, block_size, dtype)
        # The pools begin as zeros because padding is masked by a zero weight, and NaN times zero is NaN.
        shape = (blocks * 2 * config.kv_heads, block_size * config.head_dim)
        self._pools = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]

    def metadata(self, batch: Batch) -> AttentionMetadata:
        """Prepare the index tensors and masks of a batch."""
        heads = np.arange(2 * self._kv_heads) * self._block_size
        rows = (batch.blocks * (2 * self._kv_heads * self._block_size) + batch.offsets)[:, None] + heads
        return AttentionMetadata(
            self._place(rows.reshape(-1)),
            tuple(self._decodes(batch)),
            tuple(self._prefills(batch)),
        )

    def __call__(self, layer: int, qkv: Tensor, metadata: AttentionMetadata) -> Tensor:
        """Store K and V of `qkv` [rows, heads + 2 * KV heads, head_dim]; return [rows, heads * head_dim]."""
        pool = self._pools[layer]
        pool.view(-1, self._head_dim).index_copy_(0, metadata.rows, qkv[:, self._heads :].reshape(-1, self._head_dim))
        parts = [self._decode(pool, qkv, decodes) for decodes in metadata.decodes]
        parts += [self._prefill(pool, qkv, prefill) for prefill in metadata.prefills]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, pool: Tensor, qkv: Tensor, decodes: Decodes) -> Tensor:
        keys, values = self._gather(pool, decodes.pool_rows)
        queries = qkv[decodes.first : decodes.last, : self._heads].reshape(len(keys), -1, self._head_dim)
        scores = torch.baddbmm(decodes.mask, queries, keys.transpose(1, 2), alpha=self._scale)
        weights = scores.softmax(-1, dtype=torch.float32).to(self._dtype)
        return torch.bmm(weights, values).view(decodes.last - decodes.first, -1)

    def _prefill(self, pool: Tensor, qkv: Tensor, prefill: Prefill) -> Tensor:
        heads = qkv[prefill.first : prefill.last].transpose(0, 1)
        queries, keys, values = heads[: self._heads], heads[self._heads : -self._kv_heads], heads[-self._kv_heads :]
        if prefill.pool_rows is not None:
            keys, values = self._gather(pool, prefill.pool_rows)[:, :, : prefill.length]
        attended = F.scaled_dot_product_attention(
            queries.unsqueeze(0),
            keys.unsqueeze(0),
            values.unsqueeze(0),
            attn_mask=prefill.mask,
            is_causal=prefill.mask is None,
            enable_gqa=self._heads != self._kv_heads,
        )
        return attended.squeeze(0).transpose(0, 1).reshape(prefill.last - prefill.first, -1)

    def _gather(self, pool: Tensor, pool_rows: Tensor) -> Tensor:
        """Return K and V, [2, sequences * KV heads, tokens, head_dim]."""
        return pool.index_select(0, pool_rows.view(-1)).view(2, pool_rows.shape[1], -1, self._head_dim)

    def _pool_rows(self, table: Indexes) -> Tensor:
        """Return the rows of a pool for block numbers [sequences, blocks]: [2, sequences * KV heads, blocks]."""
        heads = np.arange(2 * self._kv_heads).reshape(2, 1, self._kv_heads, 1)
        pool_rows = (table * (2 * self._kv_heads))[:, None] + heads
        return self._place(pool_rows.reshape(2, -1, table.shape[1]))

    def _decodes(self, batch: Batch) -> list[Decodes]:
        lengths = batch.lengths[: batch.singles]
        blocks = (-(-lengths // self._block_size)).tolist()
        return [
            Decodes(
                first,
                last,
                self._pool_rows(batch.table[first:last, : blocks[first]]),
                self._padding(lengths[first:last], blocks[first] * self._block_size),
            )
            for first, last in buckets(blocks, self._most)
        ]

    def _padding(self, lengths: Indexes, width: int) -> Tensor:
        within = np.arange(width) < lengths.repeat(self._kv_heads)[:, None, None]
        return self._place(np.where(within, np.float32(0), np.float32(-np.inf))).to(self._dtype)

    def _prefills(self, batch: Batch) -> list[Prefill]:
        first, prefills = batch.singles, []
        for span in range(batch.singles, len(batch.counts)):
            count, length = int(batch.counts[span]), int(batch.lengths[span])
            blocks = batch.table[span : span + 1, : -(-length // self._block_size)]
            pool_rows, mask = (self._pool_rows(blocks), self._causal(count, length)) if length > count else (None, None)
            prefills.append(Prefill(first, first + count, length, pool_rows, mask))
            first += count
        return prefills

    def _place(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _causal(self, count: int, length: int) -> Tensor:
        # The mask is aligned to the lower right: the last row attends to all tokens.
        mask = torch.full((count, length), -torch.inf, dtype=self._dtype, device=self._device)
        return mask.triu_(length - count + 1)


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Return the bytes of K and V of one block in one layer."""
    return 2 * config.kv_heads * block_size * config.head_dim * dtype.itemsize
