"""Rotary position embedding with the published ways of stretching it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from preble.backends.torch.config import Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[Tensor, float]:
    """Return radians per position of each pair of dimensions [head_dim / 2], and the length of the rotated vectors.

    `dynamic` stretching begins beyond the model's own context, which this engine keeps to: it is `default` here.
    """
    plain = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.divisors:
        plain = plain / torch.tensor(rope.divisors)
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, plain, head_dim), _yarn_length(rope)
    return plain, 1.0


def rotation(frequencies: Tensor, length: float, positions: Tensor) -> Tensor:
    """Return the complex factor of each pair of dimensions at `positions` [tokens]: [tokens, 1, head_dim / 2]."""
    angles = torch.outer(positions.float(), frequencies)
    return torch.polar(torch.full_like(angles, length), angles).unsqueeze(1)


def rotate(heads: Tensor, factors: Tensor) -> None:
    """Rotate `heads` [tokens, heads, head_dim] in place; the two dimensions of a pair lie next to each other."""
    pairs = heads.view(*heads.shape[:-1], -1, 2)
    if heads.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(factors)
    else:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()).mul_(factors)))


def pair_order(head_dim: int) -> Tensor:
    """Return the order of a head's rows that puts the pairs, stored half a head apart, next to each other."""
    return torch.arange(head_dim).view(2, -1).t().reshape(-1)


def _llama3(rope: Rope, plain: Tensor) -> Tensor:
    # Waves that turn often within the trained context stay; those that hardly turn are stretched; a ramp between.
    turns = rope.original_context * plain / (2 * math.pi)
    span = rope.high_frequency_factor - rope.low_frequency_factor
    keep = ((turns - rope.low_frequency_factor) / span).clamp(0, 1)
    return plain * keep + plain / rope.factor * (1 - keep)


def _yarn(rope: Rope, plain: Tensor, head_dim: int) -> Tensor:
    low = _yarn_dimension(rope, head_dim, rope.beta_fast)
    high = _yarn_dimension(rope, head_dim, rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    stretch = ramp.clamp(0, 1)
    return plain / rope.factor * stretch + plain * (1 - stretch)


def _yarn_dimension(rope: Rope, head_dim: int, turns: float) -> float:
    """Return the dimension whose wave turns `turns` times within the trained context."""
    return head_dim * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))


def _yarn_length(rope: Rope) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
