"""Disciplines: the orders in which a worker considers its waiting requests. `DISCIPLINES` names them.

A discipline orders requests of equal rank. Rank is priority and then deadline, and always comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from math import inf
from typing import Literal, Protocol

from preble.tokens import TOKEN_BYTES

_MOMENT = 1e-3
"""Seconds that are added to every wait, so that of requests that have just come the shortest goes first."""


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
"""The sort key of a request, by what is cached and the time; the least goes first."""


class Order(Protocol):
    """A discipline. What it yields need not be taken; `took` says what was."""

    def order(self, queue: Sequence[Waiting], cached: CachedLengths, now: float) -> Iterator[Waiting]:
        """Yield the requests of `queue`, which come by rank and arrival, in the order of the discipline."""

    def took(self, waiting: Waiting) -> None:
        """The request left the queue to be prefilled."""


class _ByKey:
    """The request of least key first, the first to arrive among equals."""

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
        """Yield by rank, then by prefix or age, counting the requests taken before."""
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
    """The paper's priority groups (section 3.3): requests are grouped by cached share, and group g gets g shares.

    Example: of 10 groups, a request that is 63 % cached is in group 6. While requests of all groups wait, of 55 picks
    group 10 gets 10 and group 1 gets 1. Inside a group, the first to arrive goes first.
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
    """Return the tokens to compute: at least one, since the last token of a prompt is always computed."""
    return max(1, waiting.length - cached[waiting.id])


def _response_ratio(waiting: Waiting, cached: CachedLengths, now: float) -> float:
    """Highest response ratio next (Brinch Hansen 1971): the longest wait per uncached token goes first."""
    return (waiting.arrived - now - _MOMENT) / _uncached(waiting, cached, now)


Discipline = Literal["response-ratio", "groups", "fcfs", "lpm", "shortest-prefill", "k-lpm"]
DEFAULT: Discipline = "response-ratio"
SHORT_FIRST: frozenset[Discipline] = frozenset({"response-ratio", "shortest-prefill"})
"""The disciplines by which shorter requests go first, which `preble.core.fleet.queue_delay` takes into account."""

DISCIPLINES: dict[str, Callable[..., Order]] = {
    "response-ratio": lambda: _ByKey(_response_ratio),
    "groups": _Groups,
    "fcfs": lambda: _ByKey(lambda waiting, cached, now: 0),
    "lpm": lambda: _ByKey(lambda waiting, cached, now: -cached[waiting.id]),
    "shortest-prefill": lambda: _ByKey(_uncached),
    "k-lpm": _KLongestPrefix,
}
