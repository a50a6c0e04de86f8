"""What a policy is asked and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from preble.core.arrays import Floats
from preble.core.cached import CachedTokens
from preble.core.fleet import Fleet
from preble.tree import Match


class Query:
    """A request to place: `length` prompt tokens; `match` is what the tree knows, `believed` what each slot has."""

    __slots__ = ("_cached", "believed", "length", "match", "max_tokens", "namespace", "priority", "session")

    def __init__(
        self,
        length: int,
        max_tokens: int,
        session: str | None,
        priority: int,
        match: Match,
        believed: CachedTokens,
        namespace: str = "",
    ) -> None:
        self.length = length
        self.max_tokens = max_tokens
        self.session = session
        self.priority = priority
        self.match = match
        self.believed = believed
        self.namespace = namespace
        self._cached: Floats | None = None

    @property
    def cached(self) -> Floats:
        """Prompt tokens cached, by slot."""
        if self._cached is None:
            self._cached = self.believed.by_slot()
        return self._cached


class Terms(NamedTuple):
    """What a choice was made from, by slot, in seconds. A term that the policy does not compute is None.

    `cached` is what the policy took to be cached, in tokens, if that is not the query's. `weight` is how many times the
    prefill counted, and `future_delay` how much longer the requests to come will wait.
    """

    load: Floats | None = None
    prefill: Floats | None = None
    eviction: Floats | None = None
    cached: Floats | None = None
    weight: Floats | None = None
    future_delay: Floats | None = None


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The slot chosen and why. `terms` gives the terms of the choice as they were; it is called when someone asks.

    Many decisions are kept: what `terms` holds had better be nothing that the garbage collector visits.
    """

    slot: int
    reason: str
    terms: Callable[[], Terms] = Terms


class Policy(Protocol):
    """Chooses a slot for each request. It may keep state of its own, and must not change the fleet.

    `place` is all that a policy must have. `preble.core.hooks.PolicyHooks` lists the methods that it may have besides,
    by which it hears what became of its decisions, and the flag `relieves`. Any other method must begin with an
    underscore, so that a misspelt hook is an error at the start.
    """

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the decision. Raises NoWorkersError if no worker is there.

        `fleet` is the part of the fleet that serves the request's namespace: `live` has no other slots, and the `load`
        and `pending` of others are infinite. It may be a new object each time, and must not be kept.
        """
