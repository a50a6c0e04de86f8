"""Samples of which their workers have said nothing for too long."""

from __future__ import annotations

import math
from typing import Literal

from preble.dispatch.request import Sample

PREDICTIONS = 10.0
"""A worker may need so many times the predicted time to the first token before it counts as silent."""

_LOOKS = 8  # so often is it looked in the time after which a worker counts as silent
_LAG = 1.0  # seconds


class Silence:
    """Hears what workers say, and tells of samples that they say nothing of. `due` is when to look next."""

    def __init__(self, idle_timeout: float) -> None:
        """A sample may go without news for `idle_timeout` seconds, or ten times its predicted TTFT."""
        self.due = math.inf
        self._idle_timeout = idle_timeout
        self._spoke: dict[str, float] = {}

    def start(self, now: float) -> None:
        """Begin to look."""
        self.due = now + self._idle_timeout / _LOOKS

    def spoke(self, worker: str, now: float) -> None:
        """A worker told something of the requests that it has."""
        self._spoke[worker] = now

    def forget(self, worker: str) -> None:
        """A worker is gone."""
        self._spoke.pop(worker, None)

    def is_due(self, now: float, *, late: float) -> bool:
        """Whether to look now, `late` seconds after it was due.

        If that is much later, it may be the caller who has not listened, so that nothing is known of the workers.
        """
        if now < self.due:
            return False
        self.start(now)
        return late < min(_LAG, self._idle_timeout / 4)

    def of(self, sample: Sample, now: float) -> Literal["hung", "queued"] | None:
        """Return what is wrong with a sample on a worker, None if nothing is.

        It is hung if it had begun, or if its worker says nothing at all; else it may wait in a long queue.
        """
        assert sample.placement is not None
        patience = max(self._idle_timeout, PREDICTIONS * sample.placement.predicted_ttft)
        if now - sample.heard <= patience:
            return None
        quiet = now - self._spoke.get(sample.worker, -math.inf) > self._idle_timeout
        return "hung" if sample.answered or quiet else "queued"
