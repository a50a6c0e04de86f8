"""The baseline that looks at prefixes only: whoever has most of the prompt cached."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policies.baselines.ties import fewest
from preble.core.policy import Decision, Query


class LongestPrefix:
    """Sends a request to the worker with the most prompt tokens cached; ties go to the fewest requests in flight.

    No source: the extreme that the other rules temper. Nothing stops it from sending all to one worker. State: what
    the scheduler knows from the engines, with prefixes in flight counted as held; counts of requests in flight.
    """

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the live slot with most cached; remaining ties are drawn."""
        live = fleet.require_live()
        cached = query.cached.tolist()
        most = max(cached[slot] for slot in live)
        holders = [slot for slot in live if cached[slot] == most]
        return Decision(fewest(holders, fleet), "longest prefix" if most else "nothing cached")
