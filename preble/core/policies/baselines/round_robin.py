"""The baseline: workers in turn, blind to prefixes and load."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policy import Decision, Query


class RoundRobin:
    """Sends a request to the worker whose last turn is longest ago: to the k-th, counting round, if all serve it."""

    def __init__(self) -> None:
        self._turns = 0
        self._last: dict[int, int] = {}

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the next live slot."""
        slot = min(fleet.require_live(), key=lambda slot: self._last.get(slot, 0))
        self._turns += 1
        self._last[slot] = self._turns
        return Decision(slot, "turn")
