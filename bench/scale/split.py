"""Several schedulers over the same workers, with the face of one."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import Any
from zlib import crc32

from preble.core.copies import Copy
from preble.core.fleet import Fleet
from preble.core.rebalance import Move
from preble.core.scheduler import Placement, Scheduler
from preble.tokens import TOKEN_BYTES

FIRST_TOKENS = 512
"""Tokens that decide who places a prompt: enough to reach past a prefix that all have in common."""

Choose = Callable[[Hashable, bytes, int], int]
"""From a request's id and tokens to the index of one of so many schedulers."""


def by_chance(id: Hashable, tokens: bytes, count: int) -> int:
    """A random part of the traffic for each; the same for a request whenever it is asked."""
    return random.Random(f"split:{id}").randrange(count)


def by_prefix(id: Hashable, tokens: bytes, count: int) -> int:
    """The same one for all prompts that begin alike."""
    return crc32(tokens[: FIRST_TOKENS * TOKEN_BYTES]) % count


class Split:
    """Each request has one scheduler, which hears all of it; evictions and step times are heard by every scheduler."""

    def __init__(self, schedulers: Sequence[Scheduler], choose: Choose) -> None:
        self.schedulers = schedulers
        self._choose = choose
        self._owners: dict[Hashable, Scheduler] = {}
        self._proposers: dict[bytes, Scheduler] = {}

    @property
    def fleet(self) -> Fleet:
        """The workers and their limits, which are the same for every scheduler."""
        return self.schedulers[0].fleet

    def add_worker(self, worker: str, **about: Any) -> None:
        """All know the workers."""
        for scheduler in self.schedulers:
            scheduler.add_worker(worker, **about)

    def submit(self, id: Hashable, tokens: bytes, **about: Any) -> Placement:
        """Let the request's scheduler choose a worker."""
        known = self._owners.get(id) or self._proposers.pop(tokens, None)
        owner = known or self.schedulers[self._choose(id, tokens, len(self.schedulers))]
        self._owners[id] = owner
        return owner.submit(id, tokens, **about)

    def started(self, id: Hashable, **about: Any) -> None:
        """Tell the request's scheduler."""
        self._owners[id].started(id, **about)

    def first_token(self, id: Hashable, **about: Any) -> None:
        """Tell the request's scheduler."""
        self._owners[id].first_token(id, **about)

    def finish(self, id: Hashable, **about: Any) -> None:
        """Tell the request's scheduler."""
        self._owners[id].finish(id, **about)

    def evicted(self, worker: str, tokens: bytes, keep: int, **about: Any) -> None:
        """Tell all of what a worker evicted; those that never sent it there learn nothing."""
        for scheduler in self.schedulers:
            scheduler.evicted(worker, tokens, keep, **about)

    def observe(self, worker: str, timings: Sequence[Any], **about: Any) -> None:
        """Tell all of a worker's steps."""
        for scheduler in self.schedulers:
            scheduler.observe(worker, timings, **about)

    def rebalance(self, now: float) -> list[Move]:
        """Each proposes moves of its own requests."""
        return [move for scheduler in self.schedulers for move in scheduler.rebalance(now)]

    def copies(self, now: float) -> list[Copy]:
        """Each proposes copies of the prefixes it knows, and has them in its books."""
        proposed = [(copy, scheduler) for scheduler in self.schedulers for copy in scheduler.copies(now)]
        self._proposers.update({copy.tokens: scheduler for copy, scheduler in proposed})
        return [copy for copy, _ in proposed]

    def check(self) -> None:
        """Raise AssertionError if the books of one are wrong."""
        for scheduler in self.schedulers:
            scheduler.check()
