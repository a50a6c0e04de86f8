"""The baseline that looks at nothing."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policy import Decision, Query


class RandomChoice:
    """Sends each request to a worker drawn uniformly."""

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return any live slot."""
        return Decision(fleet.random.choice(fleet.require_live()), "drawn")
