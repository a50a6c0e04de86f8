"""What the steps of an engine cost: traffic of all shapes on all workers at once, and a cost model fitted to it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from bench.live.fitting import fitted, predicted
from bench.live.recording import Recording, recorded
from bench.live.setting import Setting
from bench.live.shapes import SHORTEST, looped, shapes
from preble.core.cost import CostModel, StepTiming
from preble.errors import ConfigurationError

AT_ONCE = 4
"""Requests at once on each worker while it has no pause."""
PHASES = 2
"""Workers without a pause, and tiny requests one by one."""


class Calibration(msgspec.Struct, frozen=True):
    """A fitted cost model, the seconds that a request spends outside of its engine, and how well the model fits.

    `delay` is the median TTFT of tiny requests that had an engine to themselves less the median of their steps.
    `error` is the mean of |predicted - measured| over the mean step; `steps` is the number of steps fitted to.
    """

    cost: CostModel
    delay: float
    error: float
    steps: int


async def calibrate(
    setting: Setting, *, requests: int, longest: int, seed: int, done: Callable[[], object]
) -> Calibration:
    """Play prompts of up to `longest` tokens on a new cluster, workers without a pause, and fit.

    `done` is called after each request, of which there are PHASES * `requests`. Raises ConfigurationError if the engine
    does not report what its steps take.
    """
    pressed = looped(shapes(requests, longest, seed + 1), AT_ONCE * setting.workers)
    tiny = looped(shapes(requests, SHORTEST, seed + 2, outputs=1), setting.workers)
    mixed, alone = await recorded(setting, "least-loaded", [pressed, tiny], done, seed=seed)
    if not mixed.steps:
        raise ConfigurationError(f"backend: {setting.backend!r} does not report what its steps take")
    return calibration(mixed.steps, delay(alone))


def calibration(steps: Sequence[StepTiming], delay: float) -> Calibration:
    """Fit a model to these steps."""
    cost = fitted(steps)
    seconds = np.array([timing.seconds for timing in steps])
    error = float(np.abs(predicted(cost, steps) - seconds).sum() / seconds.sum())
    return Calibration(cost, delay, error, len(steps))


def delay(tiny: Recording) -> float:
    """Return the seconds that requests of one step each spend outside of it."""
    ttft = statistics.median(record.ttft for record in tiny.records)
    return max(0.0, ttft - statistics.median(timing.seconds for timing in tiny.steps))
