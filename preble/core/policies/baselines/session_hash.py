"""Consistent hashing with bounded loads: a session stays where it is, as long as that worker is not too busy."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator
from itertools import count

from preble.core.fleet import Fleet
from preble.core.policy import Decision, Query
from preble.tokens import TOKEN_BYTES

_POINTS = 256
"""Points on the ring per worker (KubeAI)."""


class SessionHash:
    """Walks a ring of hashed worker names from the hash of the session, to the first worker that is not too busy.

    Too busy is more than `bound` times the mean of requests in flight, this one included. The rule and its constants
    (bound 1.25, 256 points) are those of KubeAI (`internal/loadbalancer/balance_chwbl.go`, 2f32ef49), its key is not:
    KubeAI hashes the first 100 characters of the first user message, which token ids do not show. Here the key is the
    session; without one it is the first `head` tokens of the prompt, 256 as in SMG's `prefix_hash`.
    Somebody is always below the bound, since it is above the mean. State: counts of requests in flight; no tree.
    """

    def __init__(self, *, bound: float = 1.25, head: int = 256) -> None:
        """`bound` is above 1; `head` is in tokens."""
        self.bound = bound
        self.head = head
        self._points: list[float] = []
        self._owners: list[int] = []
        self._fleet: Fleet

    def attached(self, fleet: Fleet) -> None:
        """Learn which fleet the later calls are about."""
        self._fleet = fleet

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the first slot from the key's point on that is not too busy."""
        live = fleet.require_live()
        requests = fleet.requests.tolist()
        most = self.bound * (sum(requests[slot] for slot in live) + 1) / len(live)
        owners = filter(set(live).__contains__, self._from(_positions(self._key(query), 1)[0]))
        owner = first = next(owners)
        while requests[owner] > most:
            owner = next(owners)
        return Decision(owner, "session" if owner == first else "next on the ring")

    def worker_added(self, slot: int, now: float) -> None:
        """Put its points on the ring."""
        self._rebuild()

    def worker_removed(self, slot: int, now: float) -> None:
        """Take them away."""
        self._rebuild()

    def _from(self, point: float) -> Iterator[int]:
        """The owners of the points from there on, round and round."""
        for index in count(bisect_left(self._points, point)):
            yield self._owners[index % len(self._owners)]

    def _key(self, query: Query) -> bytes:
        if query.session is not None:
            return query.session.encode("utf-8", "surrogatepass")  # any str is a key
        return query.match.prompt[: self.head * TOKEN_BYTES]

    def _rebuild(self) -> None:
        names = self._fleet.names
        ring = sorted(
            (point, slot) for slot in self._fleet.present for point in _positions(str(names[slot]).encode(), _POINTS)
        )
        self._points = [point for point, _ in ring]
        self._owners = [slot for _, slot in ring]


def _positions(key: bytes, count: int) -> list[float]:
    """`count` places in [0, 1) that depend on nothing but `key`: not on the process, as Python's `hash` does."""
    draw = random.Random(key).random  # noqa: S311  a hash, not a secret
    return [draw() for _ in range(count)]
