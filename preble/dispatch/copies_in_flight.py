"""Copies of prefixes in flight: requests for one token that only the scheduler and a worker know of."""

from __future__ import annotations

from preble.backends import Delta
from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.scheduler import Scheduler


class CopiesInFlight:
    """Tells the scheduler what becomes of each copy that it proposed. `id` is the copy's worker request id."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._worker_of: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._worker_of)

    def __contains__(self, id: int) -> bool:
        return id in self._worker_of

    def begin(self, copy: Copy, id: int, now: float) -> None:
        """Account for a copy that is sent now."""
        self._scheduler.submit(
            _name(id), copy.tokens, max_tokens=1, priority=COPY_PRIORITY, worker=copy.target, now=now
        )
        self._worker_of[id] = copy.target

    def take_in(self, id: int, delta: Delta, now: float) -> None:
        """Take in what its worker reports of a copy."""
        if delta.admitted:
            self._scheduler.started(_name(id), cached_tokens=delta.cached_tokens, now=now)
        if delta.tokens:
            self._scheduler.first_token(_name(id), now=now)
        if delta.finish_reason is not None:
            self.end(id, now)

    def end(self, id: int, now: float) -> None:
        """A copy ended, however it did."""
        del self._worker_of[id]
        self._scheduler.finish(_name(id), now=now)

    def lost(self, worker: str, now: float) -> None:
        """A worker is gone, and its copies with it."""
        for id in [id for id, where in self._worker_of.items() if where == worker]:
            self.end(id, now)

    def stop(self, now: float) -> None:
        """End all copies: nobody waits for them any more."""
        for id in list(self._worker_of):
            self.end(id, now)


def _name(id: int) -> str:
    """The copy's request id in the scheduler."""
    return f"copy:{id}"
