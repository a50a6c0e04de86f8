"""What a worker's steps really cost, learned from the times it reports; a preset is where it begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from preble.core.cost import Coefficients, StepTiming

Floats = NDArray[np.float64]

_PRIOR_STEPS = 0.1
"""How many typical steps the preset is worth."""
_MEMORY = 0.998
"""What is kept of the past at each step: about the last 500 count."""
_EVIDENCE = 8
"""Steps of a kind before the preset is doubted, and between looks at whether prices have moved."""
_SOLVE_EVERY = 4
_MATERIAL = 0.02
"""Prices are replaced when they moved by more than this share of a typical step."""
_CLIP = 2.0
"""Steps off by more than so many typical errors (medians) are outliers: they pull no harder than at this distance."""
_CALM = 0.01
_LEARNING_RATE = 1.05
_INSTANT = 1e-6
"""Seconds: no step is taken to be shorter."""
_SMALL = 256
"""Tokens below which a step may take as long as reading the weights does, however few they are."""
_LEVEL = 1.25
"""Times the shortest step: what took no longer than this may have taken the shortest, with noise."""

_PREFILL = (1.0, 1024.0, 2048.0, 1024.0 * 2048.0)
_DECODE = (1.0, 16.0, 16.0 * 1024.0)
"""Features of typical steps."""


class Line:
    """A linear form learned by weighted least squares: old steps fade, outliers are clipped, nothing is negative.

    `typical` are the features of a typical step, which scale the others; `values` are the coefficients times these,
    in seconds. They begin as those of the `prior` and are `known` when there was evidence. Constant time and space per
    observation.
    """

    def __init__(self, prior: Sequence[float], typical: Sequence[float]) -> None:
        self.observed = 0
        self.known = False
        self._unit = 1.0 / np.array(typical)
        self._prior: Floats = np.array(prior) * typical
        self.values = self._prior
        self._moments: Floats = np.zeros((len(prior), len(prior)))
        self._targets: Floats = np.zeros(len(prior))
        self._spread = 1.0

    @property
    def coefficients(self) -> list[float]:
        """Seconds per unit of each feature."""
        found: list[float] = (self.values * self._unit).tolist()
        return found

    def predict(self, features: Sequence[float]) -> float:
        """Seconds of a step with these features."""
        return float(self.values @ (self._unit * features))

    def learn(self, features: Sequence[float], seconds: float) -> None:
        """Take in a step that took so many seconds."""
        scaled = self._unit * features
        weight = self._weight(float(self.values @ scaled), seconds)
        self._moments = _MEMORY * self._moments + weight * np.outer(scaled, scaled)
        self._targets = _MEMORY * self._targets + (weight * seconds) * scaled
        self.observed += 1
        if self.observed >= _EVIDENCE and self.observed % _SOLVE_EVERY == 0:
            self.values = self._solution()
            self.known = True

    def follow(self, other: Line) -> None:
        """Take what `other` knows for a better prior, if there was no evidence here."""
        if other.known and self.observed < _EVIDENCE:
            self.values = self._prior = other.values
            self.known = True

    def check(self) -> None:
        """Raise AssertionError if what is accumulated cannot come from steps, or a learned value is no price."""
        assert np.isfinite(self.values).all(), "a value is not finite"
        assert not self.known or (self.values >= 0).all(), "a learned value is negative"
        assert self.values is self._prior or (self.known and self.observed >= _EVIDENCE), "learned without evidence"
        assert np.allclose(self._moments, self._moments.T), "moments are not symmetric"
        assert (np.diag(self._moments) >= 0).all(), "negative moments"
        assert _CALM <= self._spread <= 1.0, "typical error out of bounds"

    def _weight(self, predicted: float, seconds: float) -> float:
        """One over the step's length; less for an outlier. Moves the typical error, a running median."""
        size = max(predicted, _INSTANT)
        error = abs(seconds - size) / size
        clip = _CLIP * self._spread
        moved = self._spread * _LEARNING_RATE if error > self._spread else self._spread / _LEARNING_RATE
        self._spread = min(max(moved, _CALM), 1.0)
        # By the longer of the two, or the first steps of a worker much slower than its preset would count for ever.
        return min(1.0, clip / max(error, _CALM)) / max(size, seconds)

    def _solution(self) -> Floats:
        """Normal equations with the prior; a coefficient that would be negative is zero and the others do without."""
        size = max(float(self._prior.sum()), float(self.values.sum()), _INSTANT)
        ridge = _PRIOR_STEPS / size
        matrix = self._moments + ridge * np.eye(len(self._prior))
        vector = self._targets + ridge * self._prior
        free = np.arange(len(self._prior))
        while True:
            solved = np.linalg.solve(matrix[np.ix_(free, free)], vector[free])
            if not len(free) or solved.min() >= 0:
                break
            free = np.delete(free, solved.argmin())
        values = np.zeros(len(self._prior))
        values[free] = solved
        return values


class Fit:
    """Prices of one worker: `prices` are the preset's until its steps say otherwise.

    Two lines: steps with prefills over (1, new tokens, context, new x context), whose slope in context is what cached
    tokens cost, and steps of decodes over (1, sequences, context). An engine takes at least a time for any step; so
    a prefill too small to show, by what is known so far, teaches the second line.
    """

    def __init__(self, preset: Coefficients) -> None:
        self.preset = self.prices = preset
        self._prefill = Line((preset.base, preset.new, preset.context, preset.product), _PREFILL)
        self._decode = Line((preset.decode_base, preset.decode_new, preset.decode_context), _DECODE)
        self._unread = 0

    def observe(self, timings: Iterable[StepTiming]) -> bool:
        """Take in steps, oldest first. Return True if `prices` were replaced: they moved materially."""
        before = self.prices
        for timing in timings:
            self._learn(timing)
            self._unread += 1
            if self._unread >= _EVIDENCE:
                self._unread = 0
                self._publish()
        return self.prices is not before

    def follow(self, other: Fit) -> None:
        """Where there was no evidence here, believe what another worker of this preset has learned.

        Or a worker whose preset is too slow, and who learns so late, would get no work to learn from.
        """
        self._prefill.follow(other._prefill)
        self._decode.follow(other._decode)
        self._publish()

    def check(self) -> None:
        """Raise AssertionError if a line is broken."""
        self._prefill.check()
        self._decode.check()
        assert 0 <= self._unread < _EVIDENCE, "prices were not looked at in time"

    def _learn(self, timing: StepTiming) -> None:
        small = (1.0, timing.new, timing.context)
        large = (*small, timing.product)
        if timing.new <= timing.decodes or self._flat(large, timing):
            self._decode.learn(small, timing.seconds)
        else:
            self._prefill.learn(large, timing.seconds)

    def _flat(self, large: Sequence[float], timing: StepTiming) -> bool:
        """Whether a step with prefills took what any step takes, by what both lines say and by what it took."""
        floor = self._decode.predict((1.0, 1.0, timing.context))
        return timing.new <= _SMALL and timing.seconds < _LEVEL * floor and self._prefill.predict(large) < floor

    def _publish(self) -> None:
        old, prefill, decode = self.prices, self._prefill.coefficients, self._decode.coefficients
        moved = _moved((old.base, old.new, old.context, old.product), prefill, _PREFILL)
        if moved or _moved((old.decode_base, old.decode_new, old.decode_context), decode, _DECODE):
            # Before any evidence of decodes the preset's own least stands: it may know better than its decode line.
            least = max(decode[0] + decode[1], _INSTANT) if self._decode.known else old.least
            self.prices = Coefficients(least, *prefill, *decode)


def _moved(old: Sequence[float], new: Sequence[float], typical: Sequence[float]) -> bool:
    changes = sum(abs(after - before) * size for before, after, size in zip(old, new, typical, strict=True))
    return changes > _MATERIAL * sum(before * size for before, size in zip(old, typical, strict=True))
