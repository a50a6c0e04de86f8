"""What happened within the last H seconds: the history that the paper's E2 decides by (paper section 3.2)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from preble.core.arrays import Floats

_OUTPUT_GUESS = 64.0
_SUMS = ("requests", "prefill", "step", "outputs", "tokens")


class Assignment(NamedTuple):
    """A request assigned to `slot`: the tree nodes where its prompt and its key portion end, and its price.

    `prefill` is seconds for its uncached tokens, `step` seconds for each token of output.
    """

    slot: int
    node: int
    key: int
    prefill: float
    step: float


class Window:
    """What was assigned to each slot, and how long outputs were, within the last `seconds`.

    Arrays by slot: `requests` counts the assignments, `prefill` and `step` are the sums of their fields, `outputs`
    counts the outputs, `tokens` their tokens, and `average` is `tokens / outputs`. Each entry is added once and
    subtracted once, so the cost of a decision does not depend on how many entries there are.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.assignments: deque[tuple[float, Assignment]] = deque()
        self._ended: deque[tuple[float, int, int]] = deque()
        self.requests: Floats = np.empty(0)
        self.prefill: Floats = np.empty(0)
        self.step: Floats = np.empty(0)
        self.outputs: Floats = np.empty(0)
        self.tokens: Floats = np.empty(0)
        self.average: Floats = np.empty(0)

    def grow(self, slots: int) -> None:
        """Have at least `slots` slots."""
        for name in _SUMS:
            column = getattr(self, name)
            setattr(self, name, np.append(column, np.zeros(max(0, slots - len(column)))))
        self.average = np.append(self.average, np.full(max(0, slots - len(self.average)), _OUTPUT_GUESS))

    def assign(self, assignment: Assignment, now: float) -> None:
        """Add a request."""
        self.assignments.append((now, assignment))
        self.requests[assignment.slot] += 1
        self.prefill[assignment.slot] += assignment.prefill
        self.step[assignment.slot] += assignment.step

    def ended(self, slot: int, tokens: int, now: float) -> None:
        """Add an output of so many tokens."""
        self._ended.append((now, slot, tokens))
        self._count(slot, 1, tokens)

    def expire(self, now: float) -> Iterator[Assignment]:
        """Forget what is `seconds` old or older, and yield the assignments among it."""
        horizon = now - self.seconds
        while self._ended and self._ended[0][0] <= horizon:
            _, slot, tokens = self._ended.popleft()
            self._count(slot, -1, -tokens)
        while self.assignments and self.assignments[0][0] <= horizon:
            _, gone = self.assignments.popleft()
            self._subtract(gone)
            yield gone

    def drop(self, slot: int) -> list[Assignment]:
        """Forget all of one slot and return its assignments. O(entries)."""
        gone = [entry for _, entry in self.assignments if entry.slot == slot]
        self.assignments = deque(entry for entry in self.assignments if entry[1].slot != slot)
        self._ended = deque(entry for entry in self._ended if entry[1] != slot)
        for name in _SUMS:
            getattr(self, name)[slot] = 0.0
        self.average[slot] = _OUTPUT_GUESS
        return gone

    def decode(self) -> Floats:
        """Seconds that the requests of each slot decode, if each has the slot's average output."""
        seconds: Floats = self.step * self.average
        return seconds

    def _count(self, slot: int, outputs: int, tokens: int) -> None:
        self.outputs[slot] += outputs
        self.tokens[slot] += tokens
        self.average[slot] = self.tokens[slot] / self.outputs[slot] if self.outputs[slot] else _OUTPUT_GUESS

    def _subtract(self, gone: Assignment) -> None:
        slot = gone.slot
        self.requests[slot] -= 1
        self.prefill[slot] -= gone.prefill
        self.step[slot] -= gone.step
        if not self.requests[slot]:
            # Rounding errors must not add up over days.
            self.prefill[slot] = self.step[slot] = 0.0

    def check(self) -> None:
        """Raise AssertionError unless the sums are those of the entries, and the entries in order."""
        for name, entries in (("assignments", self.assignments), ("outputs", self._ended)):
            times = [entry[0] for entry in entries]
            assert times == sorted(times), f"{name} out of order"
        for slot in range(len(self.requests)):
            here = [entry for _, entry in self.assignments if entry.slot == slot]
            assert self.requests[slot] == len(here), f"slot {slot}: requests in the window"
            assert np.isclose(self.prefill[slot], sum(entry.prefill for entry in here)), f"slot {slot}: prefill"
            assert np.isclose(self.step[slot], sum(entry.step for entry in here)), f"slot {slot}: step"
            lengths = [tokens for _, where, tokens in self._ended if where == slot]
            assert (self.outputs[slot], self.tokens[slot]) == (len(lengths), sum(lengths)), f"slot {slot}: outputs"
            average = sum(lengths) / len(lengths) if lengths else _OUTPUT_GUESS
            assert self.average[slot] == average, f"slot {slot}: average output"


class Trend:
    """How a quantity developed: counts and sums of what was seen in the older and the newer half of a window."""

    __slots__ = ("newer", "newer_sum", "older", "older_sum")

    def __init__(self) -> None:
        self.older = self.newer = 0
        self.older_sum = self.newer_sum = 0.0

    def doubled(self, least: int) -> bool:
        """Whether the mean of the newer half is over twice that of the older, each of at least `least` values."""
        enough = min(self.older, self.newer) >= least
        return enough and self.newer_sum * self.older > 2 * self.older_sum * self.newer


class Trends:
    """Feeds trends over the last `seconds`: each value is in the newer half, then in the older one, then nowhere."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._newer: deque[tuple[float, Trend, float]] = deque()
        self._older: deque[tuple[float, Trend, float]] = deque()

    def add(self, trend: Trend, value: float, now: float) -> None:
        """Add a value to the newer half of a trend."""
        self._newer.append((now, trend, value))
        trend.newer += 1
        trend.newer_sum += value

    def expire(self, now: float) -> None:
        """Move values to where they belong `now`."""
        while self._newer and self._newer[0][0] <= now - self._seconds / 2:
            entry = self._newer.popleft()
            _, trend, value = entry
            self._older.append(entry)
            trend.newer -= 1
            trend.newer_sum = trend.newer_sum - value if trend.newer else 0.0
            trend.older += 1
            trend.older_sum += value
        while self._older and self._older[0][0] <= now - self._seconds:
            _, trend, value = self._older.popleft()
            trend.older -= 1
            trend.older_sum = trend.older_sum - value if trend.older else 0.0

    def check(self) -> None:
        """Raise AssertionError unless every trend agrees with its values."""
        for half, entries in (("newer", self._newer), ("older", self._older)):
            count: Counter[Trend] = Counter(trend for _, trend, _ in entries)
            for trend in count:
                total = sum(value for _, which, value in entries if which is trend)
                assert getattr(trend, half) == count[trend], f"{half}: count of a trend"
                assert np.isclose(getattr(trend, f"{half}_sum"), total, atol=1e-6), f"{half}: sum of a trend"
