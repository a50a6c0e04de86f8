"""Random weights, drawn on the device: a model's speed can be measured without its file."""

from __future__ import annotations

import torch
from torch import Tensor

from preble.backends.torch.config import ModelConfig
from preble.backends.torch.linear import Linear
from preble.backends.torch.weights import Layer, Weights

_SEED = 0


def dummy_weights(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Weights:
    """Return random weights of a model's sizes, without biases and head norms. Devices of one kind get the same.

    They are drawn on `device`, so that nothing is read from disk or passes through the host's memory.
    """
    generator = torch.Generator(device).manual_seed(_SEED)

    def matrix(rows: int, inputs: int) -> Tensor:
        drawn = torch.randn(rows, inputs, generator=generator, dtype=dtype, device=device)
        return drawn.mul_(inputs**-0.5)  # so that outputs are as large as inputs

    def ones() -> Tensor:
        return torch.ones(config.hidden, dtype=dtype, device=device)

    def layer() -> Layer:
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return Layer(
            attention_norm=ones(),
            qkv=Linear(matrix(queries + 2 * keys, config.hidden)),
            query_norm=None,
            key_norm=None,
            output=Linear(matrix(config.hidden, queries)),
            mlp_norm=ones(),
            gate_up=Linear(matrix(2 * config.intermediate, config.hidden)),
            down=Linear(matrix(config.hidden, config.intermediate)),
        )

    embedding = matrix(config.vocab_size, config.hidden)
    layers = tuple(layer() for _ in range(config.layers))
    head = embedding if config.tied else matrix(config.vocab_size, config.hidden)
    return Weights(embedding, layers, ones(), Linear(head))
