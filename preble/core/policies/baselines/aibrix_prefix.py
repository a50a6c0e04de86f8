"""AIBrix's `prefix-cache`: the best match among workers that are not far busier than the others."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policies.baselines.ties import fewest
from preble.core.policy import Decision, Query
from preble.core.request import Request
from preble.tree import RadixTree


class AibrixPrefix:
    """The rule of AIBrix (vllm-project/aibrix e3e10f9e, `pkg/plugins/gateway/algorithms/prefix_cache.go`).

    If the busiest worker has more than `spread` requests more than the idlest, only the idlest may match. Of those that
    hold any of the prompt, by whole percents of it, then fewest requests, then a draw: the first whose requests are at
    most `deviations` standard deviations (of a sample, over all workers) above the mean. Nobody: least requests, ties
    drawn.
    Constants: spread 8, 1 deviation; 200 000 blocks of 4 characters, taken as one token each. (Its README has others.)
    State: own guess index, entered for the final target, bounded over all workers; counts of requests in flight. The
    original drops the least recently used blocks for all their holders, this index those of the worker with most; and
    its 20 minutes to live are left out, since the bound is met sooner.
    """

    def __init__(self, *, spread: float = 8, deviations: float = 1.0, limit: int = 200_000) -> None:
        """`spread` is in requests, `limit` in tokens over all workers."""
        self.spread = spread
        self.deviations = deviations
        self.limit = limit
        self.index = RadixTree()
        self._slots: set[int] = set()

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the best match that is not too busy, else the least busy slot."""
        live = fleet.require_live()
        requests = fleet.requests[live]
        idlest = requests.min()
        imbalanced = requests.max() - idlest > self.spread
        eligible = [slot for slot in live if fleet.requests[slot] == idlest] if imbalanced else list(live)
        most = requests.mean() + self.deviations * (requests.std(ddof=1) if len(live) > 1 else 0.0)
        for slot in self._best_first(query, eligible, fleet):
            if fleet.requests[slot] <= most:
                return Decision(slot, "prefix")
        return Decision(fewest(live, fleet), "least requests")

    def _best_first(self, query: Query, slots: list[int], fleet: Fleet) -> list[int]:
        match = self.index.match(query.match.prompt)
        held = {slot: tokens for slot in slots if (tokens := match.length(slot))}
        holders = list(held)
        fleet.random.shuffle(holders)
        return sorted(holders, key=lambda slot: (-(100 * held[slot] // query.length), fleet.requests[slot]))

    def placed(self, request: Request, now: float) -> None:
        """Enter the prompt, and drop what is then too much."""
        self._slots.add(request.slot)
        self.index.insert(request.tokens, request.slot, pin=False, computed=True)
        while (excess := self.index.tokens - self.limit) > 0:
            self.index.evict(max(self._slots, key=self.index.held_tokens), excess)

    def worker_removed(self, slot: int, now: float) -> None:
        """Forget the worker."""
        self._slots.discard(slot)
        self.index.remove_worker(slot)

    def check(self) -> None:
        """Raise AssertionError if the index is not consistent or too large."""
        self.index.check()
        assert self.index.tokens <= self.limit, "the index is above its limit"
