"""Copies of prefixes on their way: requests for one token that only the scheduler and a worker know of."""

from __future__ import annotations

from preble.backends import Delta
from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.scheduler import Scheduler


class Copying:
    """Takes each copy that a scheduler proposed through its life, by the `wire` number that names it to its worker."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._worker_of: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._worker_of)

    def __contains__(self, wire: int) -> bool:
        return wire in self._worker_of

    def begin(self, copy: Copy, wire: int, now: float) -> None:
        """Account for a copy that is sent now."""
        self._scheduler.submit(
            _id(wire), copy.tokens, max_tokens=1, priority=COPY_PRIORITY, worker=copy.target, now=now
        )
        self._worker_of[wire] = copy.target

    def take_in(self, wire: int, delta: Delta, now: float) -> None:
        """Take in what its worker says of one."""
        if delta.admitted:
            self._scheduler.started(_id(wire), cached_tokens=delta.cached_tokens, now=now)
        if delta.tokens:
            self._scheduler.first_token(_id(wire), now=now)
        if delta.finish_reason is not None:
            self.end(wire, now)

    def end(self, wire: int, now: float) -> None:
        """One ended, however it did."""
        del self._worker_of[wire]
        self._scheduler.finish(_id(wire), now=now)

    def lost(self, worker: str, now: float) -> None:
        """A worker is gone, and its copies with it."""
        for wire in [wire for wire, where in self._worker_of.items() if where == worker]:
            self.end(wire, now)

    def stop(self, now: float) -> None:
        """Nobody waits for any of them any more."""
        for wire in list(self._worker_of):
            self.end(wire, now)


def _id(wire: int) -> str:
    return f"copy:{wire}"
