"""What a policy is asked and what it answers."""

from __future__ import annotations

from typing import Protocol

from preble.core.fleet import Fleet, Floats
from preble.tree import Match


class Query:
    """A request to place: `length` prompt tokens, of which each slot has `cached`; `match` is what the tree knows."""

    __slots__ = ("cached", "length", "match", "max_tokens", "namespace", "priority", "session")

    def __init__(
        self,
        length: int,
        max_tokens: int,
        session: str | None,
        priority: int,
        match: Match,
        cached: Floats,
        namespace: str = "",
    ) -> None:
        self.length = length
        self.max_tokens = max_tokens
        self.session = session
        self.priority = priority
        self.match = match
        self.cached = cached
        self.namespace = namespace


class Decision:
    """The slot chosen and why, with the terms of the choice by slot, in seconds, where the policy has them.

    `cached` is what it took to be cached by slot, in tokens, where that is not the query's.
    """

    __slots__ = ("cached", "eviction", "load", "prefill", "reason", "slot")

    def __init__(
        self,
        slot: int,
        reason: str,
        load: Floats | None = None,
        prefill: Floats | None = None,
        eviction: Floats | None = None,
        cached: Floats | None = None,
    ) -> None:
        self.slot = slot
        self.reason = reason
        self.load = load
        self.prefill = prefill
        self.eviction = eviction
        self.cached = cached


class Policy(Protocol):
    """Chooses a slot. It may keep state of its own, and must not change the fleet.

    The fleet that `place` is given is the part that serves the request's namespace: `live` has no other slots, and the
    others' `load` and `pending` are infinite. It may be a new object each time, and must not be kept.
    With an attribute `relieves` that is true, requests that wait too long may be moved. Any of these methods is called
    if it is there, after the scheduler's own books are up to date: `attached(fleet)` (once, by the scheduler that takes
    the policy), `placed(request, now)`, `landed(request, now)` (its prefill), `finished(request, output, now)` (however
    it ended; `output` is packed), `evicted(slot, tokens, keep, now)` (reported, estimated, or found out when a request
    started), `worker_added(slot, now)`, `worker_removed(slot, now)`, and `check()` with the scheduler's own. Requests
    are `preble.core.request.Request`.
    """

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the decision. Raises NoWorkersError if no worker is there."""
