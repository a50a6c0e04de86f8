"""SGLang's `cache_aware`: follow the prefix, unless the workers' loads have drifted apart."""

from __future__ import annotations

from array import array
from typing import Any

from preble.core.fleet import Fleet
from preble.core.policies.baselines.guess import BLOCK_SIZE, CacheAware
from preble.core.policies.baselines.ties import fewest_ever
from preble.core.policy import Decision, Query
from preble.core.request import Request
from preble.tree import Match


class SglangCacheAware:
    """The old rule of SGLang's router (lightseekorg/smg 73da68ca, its gRPC form: tokens in blocks of 16).

    If the busiest worker has more than `absolute` requests more than the idlest and more than `relative` times as many,
    prefixes are ignored: least requests. Else, if more than `threshold` of the prompt is believed cached anywhere: the
    worker for which the deepest matched piece was first entered; if that one no longer holds it, any holder, here the
    lowest slot. Else least requests. Ties of those: fewest requests ever routed, then the lowest slot.
    Constants: those of its command line; of its library 0.5, 32, 1.1, 30 s and 10 000 units. State: own guess index,
    entered in every branch; counts of requests.
    If no holder takes requests, the original takes the first worker and enters nothing; here it is entered.
    """

    def __init__(self, **options: Any) -> None:
        """`options` are those of CacheAware."""
        self.options = CacheAware(**options)
        self.index = self.options.index()

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the slot, by one of three branches: imbalance, prefix, miss."""
        requests = fleet.requests[fleet.require_live()].tolist()
        most, least = max(requests), min(requests)
        if most - least > self.options.absolute and most > self.options.relative * least:
            return Decision(fewest_ever(fleet, self.index.entered), "imbalance")
        match = self.index.match(query.match.prompt)
        if match.tokens / query.length > self.options.threshold:
            return Decision(_tenant(match, fleet.live), "prefix")
        return Decision(fewest_ever(fleet, self.index.entered), "miss")

    def placed(self, request: Request, now: float) -> None:
        """Enter the prompt."""
        first = array("i", [request.slot]) * (request.length // BLOCK_SIZE)
        self.index.enter(request.tokens, request.slot, now, payload=first)

    def worker_removed(self, slot: int, now: float) -> None:
        """Forget the worker."""
        self.index.forget(slot)

    def check(self) -> None:
        """Raise AssertionError if the index is not consistent."""
        self.index.check()


def _tenant(match: Match, live: list[int]) -> int:
    holders = match.levels[-1][1]
    first = match.payload()[-1]
    if holders >> first & 1 and first in live:
        return first
    return next((slot for slot in live if holders >> slot & 1), live[0])
