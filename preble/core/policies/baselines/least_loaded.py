"""The baseline that looks at load only: fewest requests in flight."""

from __future__ import annotations

import numpy as np

from preble.core.fleet import Fleet
from preble.core.policy import Decision, Query


class LeastLoaded:
    """Sends a request to the worker with the fewest requests in flight."""

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the live slot with the fewest requests."""
        fleet.require_live()
        return Decision(fleet.cheapest(np.where(np.isinf(fleet.load), np.inf, fleet.requests)), "least requests")
