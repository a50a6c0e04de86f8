"""Our network without the engine around it: sequences with scattered KV blocks, stepped by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from preble.backends import EngineRequest
from preble.backends.batching import Sequence, TokenSpan
from preble.backends.cache import Lease
from preble.backends.torch.attention import PagedAttention
from preble.backends.torch.batch import arrange
from preble.backends.torch.config import read_config
from preble.backends.torch.model import Model
from preble.backends.torch.weights import load_weights
from preble.types import SamplingParams

BLOCK = 8
BLOCKS = 256


def pack(tokens: list[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}i", *tokens)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 320, length).tolist()


def sequence(
    tokens: list[int], sampling: SamplingParams | None = None, *, id: int = 0, blocks: list[int] | None = None
) -> Sequence:
    made = Sequence(EngineRequest(id, pack(tokens), sampling or SamplingParams()), 0.0)
    made.lease = Lease()
    made.lease.blocks = blocks or []
    return made


class Network:
    """A model, and sequences whose blocks are drawn at random from one pool."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        device = torch.device("cpu")
        config = read_config(folder)
        weights = load_weights(folder, config, dtype, device)
        attention = PagedAttention(config, blocks=BLOCKS, block_size=BLOCK, dtype=dtype, device=device)
        self.model = Model(config, weights, attention)
        self._free = np.random.default_rng(5).permutation(BLOCKS).tolist()

    def sequence(self, tokens: list[int]) -> Sequence:
        return sequence(tokens, blocks=[self._free.pop() for _ in range(-(-len(tokens) // BLOCK))])

    def forward(self, *spans: TokenSpan) -> Tensor:
        return self.model.forward(arrange(spans, BLOCK))

    def run(self, tokens: list[int], sizes: list[int]) -> Tensor:
        """Compute a sequence in spans of `sizes` tokens; return the logits of each span's last token."""
        made, start, logits = self.sequence(tokens), 0, []
        for size in sizes:
            logits.append(self.forward(TokenSpan(made, start, size, True)))
            start += size
        return torch.cat(logits)
