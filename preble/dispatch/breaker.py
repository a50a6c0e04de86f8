"""A circuit breaker: whether one worker takes new requests, by what became of those before."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

OUTCOMES = 16
"""So many of a worker's last attempts are judged."""

WINDOW = 30.0
"""Seconds after which an outcome does not count any more."""

LEAST_FAILURES = 3
"""A breaker does not open for fewer failures."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds for which a breaker stays open at first, and at most."""


class Failure(NamedTuple):
    """An attempt that failed: which sample's, after how many seconds, and whether tokens had come by then."""

    sample: str
    seconds: float
    late: bool


class Breaker:
    """Opens when many of a worker's last attempts failed, and closes when one goes well again.

    It is closed at first. It should open when at least 3 of the last 16 outcomes of the last 30 s are failures, and at
    least half of them are. After a second it is half-open: one request, the `probe`, may try. If that goes well it
    closes, and if it fails it is open for twice as long as before, up to 30 s.
    """

    def __init__(self) -> None:
        self.open_until: float | None = None
        self.probe: str | None = None
        self.reason = ""
        self._outcomes: deque[tuple[float, Failure | None]] = deque(maxlen=OUTCOMES)
        self._pause = FIRST_PAUSE
        self._closed_at = 0.0
        self._late = False
        self._remembers = False

    def is_open(self, now: float) -> bool:
        """Whether it takes nothing at all."""
        return self.open_until is not None and now < self.open_until

    def is_half_open(self, now: float) -> bool:
        """Whether it takes one request, to see how that goes."""
        return self.open_until is not None and now >= self.open_until

    def succeed(self, now: float) -> bool:
        """An attempt went well. Return whether failures are remembered, so that what they cost has changed."""
        self._outcomes.append((now, None))
        return self._remembers

    def fail(self, failure: Failure, now: float) -> None:
        """An attempt failed."""
        self._remembers = True
        self._outcomes.append((now, failure))

    def withdraw(self, sample: str) -> None:
        """The failures of this sample were its own fault."""
        kept = [each for each in self._outcomes if each[1] is None or each[1].sample != sample]
        self._outcomes.clear()
        self._outcomes.extend(kept)

    def is_bad(self, now: float) -> bool:
        """Whether it should open."""
        failures = len(self._failures(now))
        return failures >= LEAST_FAILURES and 2 * failures >= len(self._outcomes)

    def trip(self, reason: str, now: float) -> None:
        """Take nothing for a while; longer than the last time, if that was not long ago."""
        failures = self._failures(now)
        self._late = 2 * sum(failure.late for failure in failures) > len(failures)
        if self.open_until is None and now - self._closed_at > WINDOW:
            self._pause = FIRST_PAUSE
        self.reason, self.probe, self.open_until = reason, None, now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def close(self, now: float) -> None:
        """Take requests again; what went wrong before is forgotten."""
        self.open_until = self.probe = None
        self._closed_at = now
        self._outcomes.clear()

    def proves_itself(self, sample: str, *, finished: bool) -> bool:
        """Whether the first token of `sample`, or its end, shows that the worker is well again.

        A worker whose failures came after the first token shows that by an end only.
        """
        return sample == self.probe and (finished or not self._late)

    def penalty(self, now: float) -> float:
        """What its failures cost a request on average, in seconds: their share times the mean time that they took."""
        failures = self._failures(now)
        if not failures:
            return 0.0
        return sum(failure.seconds for failure in failures) / len(self._outcomes)

    def forgets_at(self) -> float:
        """When the oldest failure does not count any more; infinity without failures."""
        return min((at + WINDOW for at, failure in self._outcomes if failure is not None), default=float("inf"))

    def _failures(self, now: float) -> list[Failure]:
        while self._outcomes and self._outcomes[0][0] <= now - WINDOW:
            self._outcomes.popleft()
        failures = [failure for _, failure in self._outcomes if failure is not None]
        self._remembers = bool(failures)
        return failures
