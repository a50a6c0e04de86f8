"""The baseline that looks at two workers only: the power of two random choices (Mitzenmacher, 1996)."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policy import Decision, Query


class PowerOfTwo:
    """Draws two distinct workers and takes the one with fewer requests in flight, the first drawn if they are equal.

    As in SGLang's router until August 2026 (`policies/power_of_two.rs`). State: counts of requests in flight.
    """

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the less busy of two live slots."""
        live = fleet.require_live()
        drawn = fleet.random.sample(live, min(2, len(live)))
        return Decision(min(drawn, key=fleet.requests.__getitem__), "less busy of two")
