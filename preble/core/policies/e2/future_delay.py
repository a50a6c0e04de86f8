"""D of E2: how much longer the requests to come will wait if a long prefill takes a lightly loaded worker."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from preble.core.arrays import Floats

MEMORY = 30.0
"""Seconds over which arrivals are counted, about."""
_LEARNING_RATE = 1 / 20
_SPREAD = 2.0
"""Workers whose loads differ by less than this many times the work of a request are much alike to a new request."""
_CERTAIN = 1 - 1e-12
"""Keeps the logarithm finite: the soft minimum rises by at most 28 spreads."""


class FutureDelay(msgspec.Struct, frozen=True, gc=False):
    """`rate` requests per second are expected that may have to wait; `spread` (seconds) is s of the formula below."""

    rate: float
    spread: float

    def seconds(self, load: Floats, prefill: Floats) -> Floats:
        """Return by slot how many seconds they wait longer, all together, if the slot takes on that `prefill`.

        A new request goes to the lightest worker, so it waits for the soft minimum of the loads,
        `-s * ln(sum of exp(-load / s))`. Adding the prefill to a slot raises that by `-s * ln(1 - t)`, where
        `t = exp(-load / s) / (sum of exp(-load / s)) * (1 - exp(-prefill / s))`. While the prefill lasts,
        `rate * prefill` requests come.
        """
        if not self.rate:
            return np.zeros_like(load)
        near = np.exp((load.min() - load) / self.spread)
        taken = near / near.sum() * -np.expm1(-prefill / self.spread)
        longer: Floats = self.rate * prefill * self.spread * -np.log1p(-np.minimum(taken, _CERTAIN))
        return longer


NO_DELAY = FutureDelay(0.0, 0.0)


class Arrivals:
    """How often requests have come lately, and the work that each brought, in seconds: running means."""

    __slots__ = ("_last", "_rate", "work")

    def __init__(self) -> None:
        self.work = 0.0
        self._rate = 0.0
        self._last = -math.inf

    def came(self, work: float, now: float) -> None:
        """Count a request."""
        self.work = work if self._last == -math.inf else self.work + _LEARNING_RATE * (work - self.work)
        self._rate = self.rate(now) + 1 / MEMORY
        self._last = now

    def rate(self, now: float) -> float:
        """Return requests a second."""
        return self._rate * math.exp((self._last - now) / MEMORY)

    def future_delay(self, part: int, workers: int, now: float) -> FutureDelay:
        """Return the delay of the requests to come to `part` of the `workers`, if they are like those that came.

        With little load another worker is soon free, so their rate counts times the square of the utilization.
        """
        if not self.work:
            return NO_DELAY
        each = self.rate(now) / workers
        load = min(1.0, each * self.work)
        return FutureDelay(each * part * load * load, _SPREAD * self.work)
