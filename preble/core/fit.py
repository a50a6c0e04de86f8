"""What a worker's steps really cost, learned from the times it reports; a preset is where it begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from preble.core.arrays import Floats
from preble.core.cost import Coefficients, StepTiming

_PRIOR_STEPS = 0.1
"""How many typical steps the preset is worth."""
_SOLVABLE = 1e-12
"""And at least this share of the steps seen, or rounding could leave nothing to solve."""
_MEMORY = 0.998
"""What is kept of the past at each step: about the last 500 count."""
_EVIDENCE = 8
"""Steps of a kind before the preset is doubted."""
_BATCH = 64
"""Steps taken in at once: numpy costs as much for one. The first ones in batches of `_EVIDENCE`."""
_MATERIAL = 0.02
"""Prices are replaced when some typical size moved by more than this share."""
_CLIP = 2.0
"""Steps off by more than so many typical errors (medians) are outliers: they pull no harder than at this distance."""
_AGREEMENT = 0.05
"""Two lines are the same worker's if they differ by no more than this share of the steps it took."""
_CALM = 0.01
_LEARNING_RATE = 1.05
_INSTANT = 1e-6
"""Seconds: no step is taken to be shorter."""
_SMALL = 256
"""Tokens below which a step may take as long as reading the weights does, however few they are."""
_LEVEL = 1.25
"""Times the shortest step: what took no longer than this may have taken the shortest, with noise."""

_PREFILL = (1.0, 1024.0, 2048.0, 1024.0 * 2048.0, 16.0 * 1024.0)
_DECODE = (1.0, 16.0, 16.0 * 1024.0)
"""Features of typical steps."""
_PREFILL_SIZES = np.array(
    [_PREFILL[:4], (1.0, 1024.0, 65536.0, 1024.0 * 65536.0), (0.0, 1.0, 0.0, 2048.0), (0.0, 1.0, 0.0, 65536.0)]
)
_DECODE_SIZES = np.array([_DECODE, (1.0, 1.0, 1024.0), (1.0, 64.0, 64.0 * 4096.0)])
"""What prices are compared by: short and long steps, and the work of a token there without the step's own time."""

_NEW, _CONTEXT, _DECODES, _SECONDS = 1, 2, 6, 7
_PREFILL_FEATURES = [0, 1, 3, 4, 5]
_DECODE_FEATURES = slice(0, 3)
"""Columns of a step: 1, new, context, prefill context, product, decode context, decodes, seconds."""
_FADING = _MEMORY ** np.arange(_BATCH - 1.0, -1.0, -1.0)


class Line:
    """A linear form learned by weighted least squares: old steps fade, outliers are clipped, nothing is negative.

    `typical` are the features of a typical step, which scale the others; `values` are the coefficients times these,
    in seconds. They begin as those of the `prior` and are `known` when there was evidence. Constant space, and time
    per step.
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
    def coefficients(self) -> Floats:
        """Seconds per unit of each feature."""
        return self.values * self._unit

    def learn(self, features: Floats, seconds: Floats) -> None:
        """Take in steps, oldest first: their features, a row each, and the seconds that they took."""
        scaled = features * self._unit
        count = len(seconds)
        weights = self._weights(scaled @ self.values, seconds) * _FADING[-count:]
        weighted = (scaled * weights[:, None]).T
        kept = _MEMORY**count
        self._moments = kept * self._moments + weighted @ scaled
        self._targets = kept * self._targets + weighted @ seconds
        self.observed += count
        if self.observed >= _EVIDENCE:
            self.values = self._solution()
            self.known = True

    def follow(self, other: Line) -> bool:
        """Take what `other` knows for a better prior, if there was no evidence here. Return whether it was taken."""
        taken = other.known and self.observed < _EVIDENCE and self.values is not other.values
        if taken:
            self.values = self._prior = other.values
            self.known = True
        return taken

    def agrees(self, other: Line) -> bool:
        """Whether `other` prices the steps seen here as this does: the differences are small, in the mean square."""
        difference = self.values - other.values
        return bool(difference @ self._moments @ difference <= _AGREEMENT**2 * (self._targets @ self.values))

    def check(self) -> None:
        """Raise AssertionError if what is accumulated cannot come from steps, or a learned value is no price."""
        assert np.isfinite(self.values).all(), "a value is not finite"
        assert not self.known or (self.values >= 0).all(), "a learned value is negative"
        assert self.values is self._prior or (self.known and self.observed >= _EVIDENCE), "learned without evidence"
        assert np.allclose(self._moments, self._moments.T), "moments are not symmetric"
        assert (np.diag(self._moments) >= 0).all(), "negative moments"
        assert _CALM <= self._spread <= 1.0, "typical error out of bounds"

    def _weights(self, predicted: Floats, seconds: Floats) -> Floats:
        """One over each step's length; less for outliers. Moves the typical error, a running median."""
        sizes = np.maximum(predicted, _INSTANT)
        errors = np.abs(seconds - sizes) / sizes
        farthest = _LEARNING_RATE ** len(seconds)
        moved = self._spread * min(max(_median(errors) / self._spread, 1 / farthest), farthest)
        self._spread = min(max(moved, _CALM), 1.0)
        clipped = np.minimum(_CLIP * self._spread / np.maximum(errors, _CALM), 1.0)
        # By the longer of the two, or the first steps of a worker much slower than its preset would count for ever.
        weights: Floats = clipped / np.maximum(sizes, seconds)
        return weights

    def _solution(self) -> Floats:
        """Normal equations with the prior; a coefficient that would be negative is zero and the others do without."""
        size = max(float(self._prior.sum()), float(self.values.sum()), _INSTANT)
        ridge = _PRIOR_STEPS / size + _SOLVABLE * self._moments.diagonal()
        matrix = self._moments + np.diag(ridge)
        vector = self._targets + ridge * self._prior
        free = np.arange(len(vector))
        solved = np.linalg.solve(matrix, vector)
        while len(free) and solved.min() < 0:
            free = np.delete(free, solved.argmin())
            solved = np.linalg.solve(matrix[np.ix_(free, free)], vector[free])
        values = np.zeros(len(vector))
        values[free] = solved
        return values


class Fit:
    """Prices of one worker: `prices` are the preset's until its steps say otherwise.

    Two lines: steps with prefills over (1, new tokens, context of the prefills, new x context, context of the decodes
    beside them), and steps of decodes over (1, sequences, context). Both contexts are read by attention, at different
    prices: in one sum, the decodes would hide what cached tokens cost a prefill. An engine takes at least a time for
    any step; so small prefills that took no longer teach the second line.
    """

    def __init__(self, preset: Coefficients) -> None:
        self.preset = self.prices = preset
        prefill = preset.base, preset.new, preset.context, preset.product, preset.decode_context
        self._prefill = Line(prefill, _PREFILL)
        self._decode = Line((preset.decode_base, preset.decode_new, preset.decode_context), _DECODE)
        self._unread: list[tuple[float, ...]] = []
        self._batch = _EVIDENCE
        self._read = 0

    def observe(self, timings: Iterable[StepTiming]) -> bool:
        """Take in steps, oldest first. Return True if `prices` were replaced: they moved materially."""
        before = self.prices
        for timing in timings:
            self._unread.append(_row(timing))
            if len(self._unread) == self._batch:
                self._learn()
        return self.prices is not before

    def follow(self, other: Fit) -> None:
        """Where there was no evidence here, believe what another worker of this preset has learned.

        Or a worker whose preset is too slow, and who learns so late, would get no work to learn from.
        """
        prefill, decode = self._prefill.follow(other._prefill), self._decode.follow(other._decode)
        if prefill or decode:
            self._publish()

    @property
    def seen(self) -> int:
        """Steps with prefills so far, the rarer and the dearer kind."""
        return self._prefill.observed

    def agrees(self, other: Fit) -> bool:
        """Whether what `other` has learned holds for the steps seen here as well."""
        return self._prefill.agrees(other._prefill) and self._decode.agrees(other._decode)

    def check(self) -> None:
        """Raise AssertionError if a line is broken."""
        self._prefill.check()
        self._decode.check()
        assert len(self._unread) < self._batch, "steps were not taken in in time"

    def _learn(self) -> None:
        """Take in the steps not read yet."""
        rows = np.array(self._unread, dtype=np.float64)
        self._unread.clear()
        self._read += len(rows)
        self._batch = _EVIDENCE if self._read < _BATCH else _BATCH
        single = rows[:, _NEW] <= rows[:, _DECODES]
        self._learn_decodes(rows[single])
        if not single.all():
            rows = rows[~single]
            flat = self._flat(rows)
            self._learn_decodes(rows[flat])
            self._learn_prefills(rows[~flat])
        self._publish()

    def _learn_decodes(self, rows: Floats) -> None:
        if len(rows):
            self._decode.learn(rows[:, _DECODE_FEATURES], rows[:, _SECONDS])

    def _learn_prefills(self, rows: Floats) -> None:
        if len(rows):
            self._prefill.learn(rows[:, _PREFILL_FEATURES], rows[:, _SECONDS])

    def _flat(self, rows: Floats) -> NDArray[np.bool_]:
        """Which steps with prefills took what any step takes, by what is known of that."""
        base, new, context = self._decode.coefficients
        floor = base + new + context * rows[:, _CONTEXT]
        flat: NDArray[np.bool_] = (rows[:, _NEW] <= _SMALL) & (rows[:, _SECONDS] < _LEVEL * floor)
        return flat

    def _publish(self) -> None:
        old, prefill, decode = self.prices, self._prefill.coefficients[:4], self._decode.coefficients
        moved = _moved((old.base, old.new, old.context, old.product), prefill, _PREFILL_SIZES)
        if moved or _moved((old.decode_base, old.decode_new, old.decode_context), decode, _DECODE_SIZES):
            # Before any evidence of decodes the preset's own least stands: it may know better than its decode line.
            least = max(float(decode[0] + decode[1]), _INSTANT) if self._decode.known else old.least
            self.prices = Coefficients(least, *prefill.tolist(), *decode.tolist())


def _row(timing: StepTiming) -> tuple[float, ...]:
    """A step as numbers, in the order of the columns above."""
    context, prefill = timing.context, timing.prefill_context
    return 1.0, timing.new, context, prefill, timing.product, max(context - prefill, 0), timing.decodes, timing.seconds


def _median(values: Floats) -> float:
    """Faster than numpy's."""
    return float(np.sort(values)[len(values) // 2])


def _moved(old: Sequence[float], new: Floats, sizes: Floats) -> bool:
    before = sizes @ old
    moved: bool = (np.abs(sizes @ new - before) > _MATERIAL * before).any().item()
    return moved
