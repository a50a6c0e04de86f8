"""The baseline: workers in turn, blind to prefixes and load."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policy import Decision, Query


class RoundRobin:
    """Sends request k to the k-th worker, counting round."""

    def __init__(self) -> None:
        self._turn = 0

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the next live slot."""
        live = fleet.require_live()
        slot = live[self._turn % len(live)]
        self._turn += 1
        return Decision(slot, "turn")
