"""A cost model from step timings: weighted least squares, no coefficient negative, the total time right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preble.core.arrays import Floats
from preble.core.cost import CostModel, StepTiming

BREAKS = (4, 8, 16, 32, 64)
"""New tokens at which the second line may begin; the one that fits best is taken."""
ROUNDS = 20
CLIP = 2.0
"""Steps off by more than so many typical errors (medians) are outliers: they pull no harder than at this distance."""
_LEAST = 1e-6


def fitted(timings: Sequence[StepTiming]) -> CostModel:
    """Return the model: two lines in new tokens, a price of context, and one of prefills' new * context.

    Outliers do not bend it, but they took time: `efficiency` makes the sum over all steps what was measured.
    """
    steps, seconds = _steps(timings), np.array([timing.seconds for timing in timings])
    solutions = [_robust(_features(steps, at), seconds) for at in BREAKS]
    best = min(range(len(BREAKS)), key=lambda index: _off(steps, BREAKS[index], solutions[index], seconds))
    at, values = BREAKS[best], solutions[best]
    predicted = float((_features(steps, at) @ values).sum())
    few, each_of_few, many, each_of_many, context, product = (values * 1e3).tolist()
    return CostModel(
        pieces=((0, few, each_of_few, 0.0), (at, many, each_of_many, 0.0)),
        attention_context=context,
        extra_product=product,
        efficiency=predicted / float(seconds.sum()),
    )


def priced(cost: CostModel) -> str:
    """Return the coefficients in words: those that schedulers price prefills and decode steps by."""
    found = cost.coefficients()
    prefill = f"{found.base * 1e3:.3g} ms + {found.new * 1e6:.3g} us n + {found.context * 1e6:.3g} us c"
    decode = (
        f"{found.decode_base * 1e3:.3g} ms + {found.decode_new * 1e6:.3g} us s + {found.decode_context * 1e6:.3g} us c"
    )
    return (
        f"A prefill of n tokens to a context of c: {prefill} + {found.product * 1e9:.3g} ns n c. "
        f"A decode step of s sequences with c tokens in all: {decode}."
    )


def predicted(cost: CostModel, timings: Sequence[StepTiming]) -> Floats:
    """Return the seconds that a model of `fitted` gives for steps of which only sums are known."""
    return np.array([_step(cost, timing) for timing in timings])


def _step(cost: CostModel, timing: StepTiming) -> float:
    product = cost.extra_product * timing.product / cost.efficiency / 1e3
    return cost.step((), timing.new, timing.context) + product


def _steps(timings: Sequence[StepTiming]) -> Floats:
    return np.array([(timing.new, timing.context, timing.product) for timing in timings], dtype=np.float64)


def _features(steps: Floats, at: int) -> Floats:
    new, context, product = steps.T
    few = (new < at).astype(np.float64)
    return np.stack((few, few * new, 1 - few, (1 - few) * new, context, product), axis=1)


def _robust(features: Floats, seconds: Floats) -> Floats:
    """Weigh each step by one over its length, and outliers less, until that settles."""
    weights = 1 / np.maximum(seconds, _LEAST)
    for _ in range(ROUNDS):
        values = _nonnegative(features, seconds, weights)
        sizes = np.maximum(features @ values, _LEAST)
        errors = np.abs(sizes - seconds) / sizes
        clip = CLIP * max(float(np.median(errors)), _LEAST)
        weights = np.minimum(1.0, clip / np.maximum(errors, _LEAST)) / np.maximum(sizes, seconds)
    return values


def _nonnegative(features: Floats, seconds: Floats, weights: Floats) -> Floats:
    """Least squares; the coefficient that is most negative is zero and the others do without, until none is."""
    scale = np.maximum(np.abs(features).max(axis=0), _LEAST)
    root = np.sqrt(weights)
    matrix, vector = features / scale * root[:, None], seconds * root
    free = np.arange(features.shape[1])
    values = np.zeros(len(free))
    while len(free):
        solved = np.linalg.lstsq(matrix[:, free], vector, rcond=None)[0]
        if solved.min() >= 0:
            values[free] = solved
            break
        free = np.delete(free, solved.argmin())
    result: Floats = values / scale
    return result


def _off(steps: Floats, at: int, values: Floats, seconds: Floats) -> float:
    return float(np.abs(_features(steps, at) @ values - seconds).sum())
