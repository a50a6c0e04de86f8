"""The forward pass, which computes all rows of a step together."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from preble.backends.torch.attention import AttentionMetadata, PagedAttention
from preble.backends.torch.batch import Batch
from preble.backends.torch.config import ModelConfig
from preble.backends.torch.rope import inverse_frequencies, rotate, rotation
from preble.backends.torch.weights import Layer, Weights


class Model:
    """A Llama-family network with its KV cache."""

    def __init__(self, config: ModelConfig, weights: Weights, attention: PagedAttention) -> None:
        self._config = config
        self._weights = weights
        self._attention = attention
        self._device = weights.embedding.device
        frequencies, self._rope_length = inverse_frequencies(config.rope, config.head_dim)
        self._frequencies = frequencies.to(self._device)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Compute a batch, storing its K and V; return logits [sampled + scored, vocab]."""
        metadata = self._attention.metadata(batch)
        positions = torch.from_numpy(batch.positions).to(self._device)
        factors = rotation(self._frequencies, self._rope_length, positions)
        hidden = self._weights.embedding.index_select(0, torch.from_numpy(batch.tokens).to(self._device))
        needed = torch.from_numpy(np.concatenate([batch.sampled, batch.scored])).to(self._device)
        last = len(self._weights.layers) - 1
        for number, layer in enumerate(self._weights.layers):
            attended = self._attended(number, layer, hidden, factors, metadata)
            if number == last:
                # Rows are independent after the last attention, so only those whose logits are needed go on.
                attended, hidden = attended.index_select(0, needed), hidden.index_select(0, needed)
            hidden = self._mixed(layer, hidden, attended)
        return self._weights.head(self._norm(hidden, self._weights.norm))

    def _attended(
        self, number: int, layer: Layer, hidden: Tensor, factors: Tensor, metadata: AttentionMetadata
    ) -> Tensor:
        config = self._config
        qkv = layer.qkv(self._norm(hidden, layer.attention_norm)).view(len(hidden), -1, config.head_dim)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = qkv[:, : config.heads], qkv[:, config.heads : -config.kv_heads]
            queries.copy_(self._norm(queries, layer.query_norm))
            keys.copy_(self._norm(keys, layer.key_norm))
        rotate(qkv[:, : -config.kv_heads], factors)
        return self._attention(number, qkv, metadata)

    def _mixed(self, layer: Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = hidden + layer.output(attended)
        gate, value = layer.gate_up(self._norm(hidden, layer.mlp_norm)).chunk(2, -1)
        return hidden + layer.down(F.silu(gate).mul_(value))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self._config.norm_epsilon)
