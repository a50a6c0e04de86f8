"""SMG's `cache_aware` since August 2026: follow the prefix, each request judged by the load of the worker picked."""

from __future__ import annotations

from typing import Any

from preble.core.fleet import Fleet
from preble.core.policies.baselines.guess import CacheAware
from preble.core.policies.baselines.ties import fewest, fewest_ever
from preble.core.policy import Decision, Query
from preble.core.request import Request

HOLDERS = 8
"""So many holders of a node are considered, in the original in an arbitrary order, here the lowest slots."""


class SmgGate:
    """The per-request gate of SMG (smg-project/smg f8daa883, `model_gateway/src/policies/cache_aware.rs`).

    If more than `threshold` of the prompt is believed cached: the holder of the deepest matched piece with the fewest
    requests, ties drawn; unless it has more than `relative` times the mean of all, and more than the mean plus
    `absolute`: then least requests. Less matched: least requests (ties: fewest ever routed, then the lowest slot).
    A spill makes a new holder, so that hot prefixes spread. Off by default in the original, and left out: decay by
    waiting tokens, softmax, the switch by KV use. Constants: those of its command line, but the limit is for the whole
    tree there and for each worker here; of its library 0.5, 32, 1.1, 10 000.
    State: own guess index in blocks of 16 tokens, entered for the final target; counts of requests in flight.
    """

    def __init__(self, **options: Any) -> None:
        """`options` are those of CacheAware."""
        self.options = CacheAware(**options)
        self.index = self.options.index()

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the slot, by one of three branches: prefix, spill, miss."""
        live = fleet.require_live()
        match = self.index.match(query.match.prompt)
        if match.tokens / query.length <= self.options.threshold:
            return Decision(fewest_ever(fleet, self.index.entered), "miss")
        holders = [slot for slot in live if match.levels[-1][1] >> slot & 1][:HOLDERS]
        pick = fewest(holders or live[:1], fleet)
        if self._too_busy(pick, fleet):
            return Decision(fewest_ever(fleet, self.index.entered), "spill")
        return Decision(pick, "prefix")

    def _too_busy(self, slot: int, fleet: Fleet) -> bool:
        requests, mean = fleet.requests[slot], fleet.requests[fleet.live].mean()
        return bool(requests > self.options.relative * mean and requests > mean + self.options.absolute)

    def placed(self, request: Request, now: float) -> None:
        """Enter the prompt."""
        self.index.enter(request.tokens, request.slot, now)

    def worker_removed(self, slot: int, now: float) -> None:
        """Forget the worker."""
        self.index.forget(slot)

    def check(self) -> None:
        """Raise AssertionError if the index is not consistent."""
        self.index.check()
