"""What those who come later lose when one more worker is taken: a long prefill should not take the last light one."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from preble.core.arrays import Floats

MEMORY = 30.0
"""Seconds over which arrivals are counted, about."""
_LEARNING_RATE = 1 / 20
_SPREAD = 2.0
"""Loads that differ by less than so many times the work of a request are much alike to those who come."""
_CERTAIN = 1 - 1e-12
"""Keeps the logarithm finite: the soft minimum rises by at most 28 spreads."""


class FutureDelay(msgspec.Struct, frozen=True, gc=False):
    """`rate` requests a second will come that may wait; to them, loads are alike that are `spread` seconds apart."""

    rate: float
    spread: float

    def seconds(self, load: Floats, prefill: Floats) -> Floats:
        """Return by slot the seconds that they wait longer, all together, if it takes on that `prefill`.

        They wait for the lightest worker that they find: the soft minimum of the `load`, which rises if a light one is
        taken, the more the fewer others are as light, and for as long as the prefill takes.
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
        """Return what to expect of those who will come to a `part` of so many workers, if they are as those who came.

        The less there is to do, the less they wait, whoever is taken: they count by the square of the load.
        """
        if not self.work:
            return NO_DELAY
        each = self.rate(now) / workers
        load = min(1.0, each * self.work)
        return FutureDelay(each * part * load * load, _SPREAD * self.work)
