"""In which order a worker's waiting requests are considered: one class per kind, `DISCIPLINES` names them.

A discipline orders requests of equal rank; rank, which is priority and then deadline, always comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from math import inf
from typing import Literal, Protocol

from preble.tokens import TOKEN_BYTES

_MOMENT = 1e-3
"""Seconds that all are taken to have waited: of those that have just come, the shortest goes first."""


class Waiting:
    """A request in the queue: `tokens` are its packed prompt, `number` counts arrivals at this queue."""

    __slots__ = ("arrived", "deadline", "id", "length", "number", "rank", "tokens")

    def __init__(
        self, id: int, tokens: bytes, *, priority: int, deadline: float | None, arrived: float, number: int
    ) -> None:
        self.id = id
        self.tokens = tokens
        self.length = len(tokens) // TOKEN_BYTES
        self.deadline = inf if deadline is None else deadline
        self.rank = (priority, self.deadline)
        self.arrived = arrived
        self.number = number


CachedLengths = Mapping[int, int]
"""Cached prompt tokens by request id."""

_Key = Callable[[Waiting, CachedLengths, float], float]
"""Orders by what a request is, what is cached, and the time."""


class Order(Protocol):
    """Orders the queue. What it yields need not be taken; `took` tells what was."""

    def order(self, queue: Sequence[Waiting], cached: CachedLengths, now: float) -> Iterator[Waiting]:
        """Yield the requests of `queue`, which come by rank and arrival, in the order of the discipline."""

    def took(self, waiting: Waiting) -> None:
        """The request left the queue to be prefilled."""


class _ByKey:
    """The least key first, arrival among equals."""

    def __init__(self, key: _Key) -> None:
        self._key = key

    def order(self, queue: Sequence[Waiting], cached: CachedLengths, now: float) -> Iterator[Waiting]:
        """Yield by rank, then by key."""
        return iter(sorted(queue, key=lambda waiting: (waiting.rank, self._key(waiting, cached, now))))

    def took(self, waiting: Waiting) -> None:
        """Nothing to remember."""


class _KLongestPrefix:
    """k-LPM: the longest cached prefix first, but every k-th request taken is the oldest (arXiv 2502.04677)."""

    def __init__(self, k: int = 4) -> None:
        self._k = k
        self._taken = 0

    def order(self, queue: Sequence[Waiting], cached: CachedLengths, now: float) -> Iterator[Waiting]:
        """Yield by rank, then as the name says, counting what was taken before."""
        count = self._taken
        for _, equals in groupby(queue, key=lambda waiting: waiting.rank):
            oldest = list(equals)
            longest = sorted(oldest, key=lambda waiting: -cached[waiting.id])
            while oldest:
                count += 1
                chosen = oldest[0] if count % self._k == 0 else longest[0]
                oldest.remove(chosen)
                longest.remove(chosen)
                yield chosen

    def took(self, waiting: Waiting) -> None:
        """Count it."""
        self._taken += 1


class _Groups:
    """The paper's priority groups (section 3.3): by cached percentage, slots in proportion to the group's number.

    Of 10 groups, 63 % cached is group 6. Over any stretch of picks in which the same groups wait, group g gets g
    shares; of 55 slots group 10 gets 10 and group 1 gets 1. Inside a group: first come, first served.
    """

    def __init__(self, groups: int = 10) -> None:
        self._groups = groups
        self._credit = [0] * (groups + 1)
        self._after: dict[int, list[int]] = {}

    def order(self, queue: Sequence[Waiting], cached: CachedLengths, now: float) -> Iterator[Waiting]:
        """Yield by rank, then interleave the groups."""
        credit = list(self._credit)
        self._after.clear()
        for _, equals in groupby(queue, key=lambda waiting: waiting.rank):
            members: dict[int, list[Waiting]] = {}
            for waiting in equals:
                group = max(1, round(cached[waiting.id] * self._groups / waiting.length))
                members.setdefault(group, []).append(waiting)
            yield from self._share({group: iter(ones) for group, ones in members.items()}, credit)

    def took(self, waiting: Waiting) -> None:
        """Its group has paid for it."""
        self._credit = self._after.pop(waiting.id, self._credit)

    def _share(self, members: dict[int, Iterator[Waiting]], credit: list[int]) -> Iterator[Waiting]:
        # Smooth weighted round robin: every group earns its weight each turn, the richest pays for the turn.
        while members:
            for group in members:
                credit[group] += group
            richest = max(members, key=lambda group: (credit[group], group))
            credit[richest] -= sum(members)
            waiting = next(members[richest], None)
            if waiting is None:
                del members[richest]
                continue
            self._after[waiting.id] = list(credit)
            yield waiting


def _uncached(waiting: Waiting, cached: CachedLengths, now: float) -> float:
    """Tokens to compute: at least one, or there would be no next token."""
    return max(1, waiting.length - cached[waiting.id])


def _response_ratio(waiting: Waiting, cached: CachedLengths, now: float) -> float:
    """Highest response ratio next (Brinch Hansen 1971): the longest wait for each token to compute goes first."""
    return (waiting.arrived - now - _MOMENT) / _uncached(waiting, cached, now)


Discipline = Literal["response-ratio", "groups", "fcfs", "lpm", "shortest-prefill", "k-lpm"]
DEFAULT: Discipline = "response-ratio"
SHORT_FIRST: frozenset[Discipline] = frozenset({"response-ratio", "shortest-prefill"})
"""Where a request waits for shorter ones, and longer ones for it."""

DISCIPLINES: dict[str, Callable[..., Order]] = {
    "response-ratio": lambda: _ByKey(_response_ratio),
    "groups": _Groups,
    "fcfs": lambda: _ByKey(lambda waiting, cached, now: 0),
    "lpm": lambda: _ByKey(lambda waiting, cached, now: -cached[waiting.id]),
    "shortest-prefill": lambda: _ByKey(_uncached),
    "k-lpm": _KLongestPrefix,
}
