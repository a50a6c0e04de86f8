"""What became of the requests that one worker had, for `stats`."""

from __future__ import annotations

from collections import Counter, deque

from preble.dispatch.request import Sample
from preble.errors import (
    ConfigurationError,
    OverloadedError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerTimeoutError,
)
from preble.types import ErrorKind, Spread

RECENT = 300.0
"""Seconds of which the spread of TTFT and latency is told."""

_SAMPLES = 2048
_KINDS: dict[type[PrebleError], ErrorKind] = {
    ConfigurationError: "refused",
    OverloadedError: "full",
    UnreachableError: "unreachable",
    WorkerLostError: "lost",
    WorkerTimeoutError: "timeout",
}


class Record:
    """One worker, from the time when it was added, through all its losses and returns. `lost` is the reason of a loss.

    A sample counts where it ended; an error counts where it happened, also if the request was tried elsewhere.
    """

    def __init__(self, now: float) -> None:
        self.since = now
        self.lost: str | None = None
        self.restarts = 0
        self.finished = self.cached_tokens = self.prompt_tokens = 0
        self.errors: Counter[ErrorKind] = Counter()
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=_SAMPLES)

    def back(self, now: float) -> None:
        """It serves again."""
        self.since, self.lost = now, None
        self.restarts += 1

    def failed(self, error: PrebleError) -> None:
        """An attempt failed here."""
        self.errors[next((name for kind, name in _KINDS.items() if isinstance(error, kind)), "engine")] += 1

    def ended(self, sample: Sample, now: float) -> None:
        """A sample ended here as it should."""
        self.finished += 1
        self.cached_tokens += sample.cached_tokens
        self.prompt_tokens += sample.prompt_tokens
        start, first = sample.request.submitted_at, sample.first_token_at
        self._recent.append((now, (now if first is None else first) - start, now - start))

    def spreads(self, now: float) -> tuple[Spread | None, Spread | None]:
        """Return those of TTFT and latency, in seconds; None if nothing ended lately."""
        recent = [entry for entry in self._recent if entry[0] > now - RECENT]
        return _spread([ttft for _, ttft, _ in recent]), _spread([latency for _, _, latency in recent])


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    values.sort()
    return Spread(sum(values) / len(values), values[len(values) // 2], values[len(values) * 99 // 100])
