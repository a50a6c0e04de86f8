"""What became of the workers and of the requests that they had, for `stats`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

from preble.backends import Load
from preble.core.snapshot import WorkerState
from preble.dispatch.health import Health
from preble.dispatch.request import Sample
from preble.errors import (
    ConfigurationError,
    OverloadedError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerTimeoutError,
)
from preble.types import ErrorKind, Spread, WorkerStats

RECENT = 300.0
"""Seconds of which the spread of TTFT and latency is told."""

_SAMPLES = 2048
_NOTHING = Load(0, 0, 0)
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


class Records:
    """The records of all workers by name, in the order in which they came. Those `awaited` are lost and may return."""

    def __init__(self) -> None:
        self.awaited: set[str] = set()
        self._records: dict[str, Record] = {}

    def of(self, worker: str, now: float) -> Record:
        """Return the record of a worker, a new one if it has none."""
        record = self._records.get(worker)
        if record is None:
            record = self._records[worker] = Record(now)
        return record

    def added(self, worker: str, now: float) -> bool:
        """A worker is there. Return whether it was lost before."""
        record = self.of(worker, now)
        self.awaited.discard(worker)
        was_lost = record.lost is not None
        if was_lost:
            record.back(now)
        return was_lost

    def lost(self, worker: str, reason: str, now: float, *, returns: bool) -> None:
        """A worker is not there, and perhaps `returns`."""
        self.of(worker, now).lost = reason
        if returns:
            self.awaited.add(worker)

    def forget(self, worker: str) -> None:
        """A worker was removed on purpose."""
        self._records.pop(worker, None)
        self.awaited.discard(worker)

    def ended(self, sample: Sample, now: float) -> None:
        """A sample ended as it should."""
        if (record := self._records.get(sample.worker)) is not None:  # else its worker was removed meanwhile
            record.ended(sample, now)

    def stats(
        self, states: Sequence[WorkerState], loads: Mapping[str, Load], health: Health, now: float
    ) -> tuple[WorkerStats, ...]:
        """Return what is known of each worker; `states` are those that the scheduler has."""
        here = {state.worker: state for state in states}
        return tuple(
            self._worker_stats(worker, here.get(worker), loads.get(worker, _NOTHING), health, now)
            for worker in {**self._records, **here}
        )

    def _worker_stats(
        self, worker: str, state: WorkerState | None, engine: Load, health: Health, now: float
    ) -> WorkerStats:
        record = self._records.get(worker) or Record(now)
        ttft, latency = record.spreads(now)
        status, reason = health.status(worker, now)
        if state is None:
            status, reason = "lost", record.lost or ""
        elif not state.accepts_requests:
            status = "drained"
        return WorkerStats(
            worker=worker,
            load=state.load if state else 0.0,
            requests=state.requests if state else 0,
            held_tokens=state.held_tokens if state else 0,
            kv_tokens=state.kv_tokens if state else 0,
            running=engine.running,
            waiting=engine.waiting,
            used_tokens=engine.used_tokens,
            status=status,
            reason=reason,
            finished=record.finished,
            cached_tokens=record.cached_tokens,
            uncached_tokens=record.prompt_tokens - record.cached_tokens,
            errors=dict(record.errors),
            ttft=ttft,
            latency=latency,
            uptime=now - record.since if state else 0.0,
            restarts=record.restarts,
        )


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    values.sort()
    return Spread(sum(values) / len(values), values[len(values) // 2], values[len(values) * 99 // 100])
