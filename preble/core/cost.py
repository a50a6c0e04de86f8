"""The cost model: how many seconds a step of an engine takes, by its tokens (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from preble.errors import ConfigurationError

LONGEST_STEP = 86_400.0
"""In seconds. A timing that says that a step took longer is wrong."""

_Count = Annotated[int, Meta(ge=0)]


class StepTiming(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one step of an engine computed, and the `seconds` that it took.

    Example: the step prefills 100 tokens of a prompt of 300, and decodes one token of a sequence of 50. Then `new` is
    101, `context` is 350 (each sequence's tokens, the new ones included), `decodes` is 1, `prefill_context` is 300, and
    `product`, the sum of new * context over the prefills, is 30,000.
    """

    new: _Count
    context: _Count
    prefill_context: _Count
    product: _Count
    decodes: _Count
    seconds: Annotated[float, Meta(ge=0, le=LONGEST_STEP)]

    @property
    def plausible(self) -> bool:
        """Whether the cost model may learn from it: nothing negative, no part above the whole, no more than a day."""
        counts = min(self.new, self.context, self.prefill_context, self.product, self.decodes)
        parts = self.decodes <= self.new and self.prefill_context <= self.context
        return counts >= 0 and parts and 0 <= self.seconds <= LONGEST_STEP


class Coefficients(msgspec.Struct, frozen=True):
    """The prices of steps in seconds, simple enough to price many workers at once.

    A prefill of n new tokens of a sequence that then has c tokens takes
    `max(least, base + new * n + context * c + product * n * c)`. A step that decodes s sequences with c tokens in all
    takes `decode_base + decode_new * s + decode_context * c`.
    """

    least: float
    base: float
    new: float
    context: float
    product: float
    decode_base: float = 0.0
    decode_new: float = 0.0
    decode_context: float = 0.0

    def prefill(self, new: int, context: int) -> float:
        """Seconds to prefill `new` tokens of a sequence that then has `context` tokens."""
        linear = self.base + self.new * new + self.context * context + self.product * new * context
        return max(self.least, linear)

    def decode(self, sequences: int, context: int) -> float:
        """Seconds of one decode step of `sequences` sequences with `context` tokens in all."""
        return self.decode_base + self.decode_new * sequences + self.decode_context * context


class CostModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The time of one engine step. The fields are in milliseconds, as published; the methods return seconds.

    A step that computes n new tokens over contexts of c tokens in all takes
    `(linear(n) + attention(c) + the sum of extra(new, context) over its prefills) / efficiency`, where

    * `linear(n) = c0 + c1 * n + c2 * n * n`, of the last of the `pieces` `(from, c0, c1, c2)` with `from <= n`;
    * `attention(c) = attention_base + attention_context * c`;
    * `extra(new, context) = extra_base + extra_new * new + extra_context * context + extra_product * new * context`,
      or 0 if `new * context < extra_from`.
    """

    pieces: tuple[tuple[int, float, float, float], ...]
    attention_base: float = 0.0
    attention_context: float = 0.0
    extra_from: int = 0
    extra_base: float = 0.0
    extra_new: float = 0.0
    extra_context: float = 0.0
    extra_product: float = 0.0
    efficiency: float = 1.0

    def step(self, prefills: Sequence[tuple[int, int]], decodes: int = 0, decode_context: int = 0) -> float:
        """Seconds of one step: prefills of (new tokens, context with them), and decodes over their total context."""
        new = decodes + sum(prefill[0] for prefill in prefills)
        if not new:
            return 0.0
        context = decode_context + sum(prefill[1] for prefill in prefills)
        total = self._linear(new) + self.attention_base + self.attention_context * context
        total += sum(self._extra(*prefill) for prefill in prefills)
        return total / self.efficiency / 1e3

    def prefill(self, new: int, context: int) -> float:
        """Seconds to prefill `new` tokens of a sequence that then has `context` tokens; 0 for nothing new."""
        return self.step(((new, context),)) if new > 0 else 0.0

    def decode(self, sequences: int, context: int) -> float:
        """Seconds of one decode step of `sequences` sequences with `context` tokens in all."""
        return self.step((), sequences, context)

    def coefficients(self) -> Coefficients:
        """Return prices for many workers: prefills by the last piece, decodes by the first."""
        unit = 1e-3 / self.efficiency
        _, base, slope, _ = self.pieces[-1]
        return Coefficients(
            least=self.prefill(1, 1),
            base=(base + self.attention_base + self.extra_base) * unit,
            new=(slope + self.extra_new) * unit,
            context=(self.attention_context + self.extra_context) * unit,
            product=self.extra_product * unit,
            decode_base=(self.pieces[0][1] + self.attention_base) * unit,
            decode_new=self.pieces[0][2] * unit,
            decode_context=self.attention_context * unit,
        )

    def _linear(self, new: int) -> float:
        constant, slope, square = next(piece[1:] for piece in reversed(self.pieces) if new >= piece[0])
        # A published middle piece dips below the flat start; more tokens never take less time than one.
        return max(self.pieces[0][1], constant + slope * new + square * new * new)

    def _extra(self, new: int, context: int) -> float:
        if new * context < self.extra_from:
            return 0.0
        return (
            self.extra_base + self.extra_new * new + self.extra_context * context + self.extra_product * new * context
        )


PRESETS = {
    # Published by the paper's authors (WukLab/preble, model_equations.py). Decode of the 70B models is not published:
    # a decode is priced there as a prefill of one token.
    "mistral-7b-a6000": CostModel(
        pieces=((0, 22.0, 0.0, 0.0), (192, -118.0, 1.25, -0.00256), (384, 4.209777, 0.10842571, 0.0)),
        attention_base=0.159,
        attention_context=0.000186,
        extra_from=1024 * 1024,
        extra_new=0.00113,
        extra_context=0.00175,
        extra_product=2.19e-6,
        efficiency=0.9,
    ),
    "mistral-7b-a100": CostModel(
        pieces=((0, 8.96, 0.0, 0.0), (64, 10.5, 0.0, 0.0), (256, 5.505997, 0.05031337, 0.0)),
        extra_from=1024 * 1024,
        extra_base=0.123864,
        extra_new=-0.000745,
        extra_context=0.00172,
        extra_product=1.36266e-6,
        efficiency=0.85,
    ),
    "llama-3-70b-h100-tp2": CostModel(
        pieces=((0, 18.667307, 0.0798791, 0.0),), attention_context=0.002685316, extra_product=7.44345e-7
    ),
    "llama-3-70b-a100-tp2": CostModel(
        pieces=((0, 28.931389, 0.182233, 0.0),), attention_context=0.004003651, extra_product=2.5505e-6
    ),
    # The embedded engine with the small model of `preble make-model`, one core: the order of magnitude.
    "small-cpu": CostModel(pieces=((0, 2.0, 0.07, 0.0),), attention_context=0.0005, extra_product=1.0e-5),
}


def cost_model(cost: CostModel | str) -> CostModel:
    """Return the preset of that name, or `cost` itself. Raises ConfigurationError for an unknown name."""
    if isinstance(cost, CostModel):
        return cost
    if cost not in PRESETS:
        raise ConfigurationError(f"cost: unknown preset {cost!r}, one of {', '.join(PRESETS)}")
    return PRESETS[cost]
