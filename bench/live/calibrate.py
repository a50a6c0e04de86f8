"""What the steps of an engine cost: traffic of all shapes on all workers at once, and a cost model fitted to it.

The traffic keeps workers as busy as the run to come will, so that what they take from each other and from the caller
(memory bandwidth, caches, cores) is in their times: a first fit, to workers that have no pause, says how often requests
must come for that.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec
import numpy as np

from bench.live.fitting import fitted, predicted
from bench.live.recording import Recording, recorded
from bench.live.setting import Setting
from bench.live.shapes import SHORTEST, looped, shapes
from bench.live.traffic import paced
from preble.core.cost import CostModel
from preble.errors import ConfigurationError

AT_ONCE = 4
"""Requests at once on each worker while it has no pause."""
PHASES = 4
"""Workers without a pause, tiny requests one by one, and twice as many of all shapes."""


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
    setting: Setting, *, requests: int, longest: int, utilisation: float, seed: int, done: Callable[[], object]
) -> Calibration:
    """Play prompts of up to `longest` tokens on new clusters, workers busy for `utilisation` of the time, and fit.

    `done` is called after each request, of which there are PHASES * `requests`. Raises ConfigurationError if the engine
    does not report what its steps take.
    """
    workers = setting.workers
    pressed = looped(shapes(requests, longest, seed + 1), AT_ONCE * workers)
    (rough,) = await recorded(setting, "least-loaded", [pressed], done, seed=seed)
    if not rough.steps:
        raise ConfigurationError(f"backend: {setting.backend!r} does not report what its steps take")
    options = setting.simulated(fitted(rough.steps))
    tiny = looped(shapes(requests, SHORTEST, seed + 2, outputs=1), workers)
    many = paced(shapes(2 * requests, longest, seed + 3), utilisation, workers=workers, options=options)
    return _calibration(*await recorded(setting, "least-loaded", [tiny, many], done, seed=seed))


def _calibration(tiny: Recording, many: Recording) -> Calibration:
    cost = fitted(many.steps)
    seconds = np.array([timing.seconds for timing in many.steps])
    error = float(np.abs(predicted(cost, many.steps) - seconds).sum() / seconds.sum())
    return Calibration(cost, delay(tiny), error, len(many.steps))


def delay(tiny: Recording) -> float:
    """Return the seconds that requests of one step each spend outside of it."""
    ttft = statistics.median(record.ttft for record in tiny.records)
    return max(0.0, ttft - statistics.median(timing.seconds for timing in tiny.steps))
