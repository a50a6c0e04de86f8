"""The worker's wait queue: who is prefilled next (paper section 3.3, algorithm 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

from sortedcontainers import SortedKeyList

from preble.errors import ConfigurationError, InvalidRequestError
from preble.tokens import TOKEN_BYTES
from preble.tree import RadixTree

Discipline = Literal["groups", "fcfs", "lpm", "shortest-prefill"]

_LEADERS = 0  # the one holder in the tree of prompts being prefilled


class _Waiting:
    """A request in the queue; `order` sorts by priority, then arrival."""

    __slots__ = ("id", "length", "order", "tokens")

    def __init__(self, id: int, tokens: bytes, order: tuple[int, float, int]) -> None:
        self.id = id
        self.tokens = tokens
        self.length = len(tokens) // TOKEN_BYTES
        self.order = order


class LocalScheduler:
    """Orders one worker's waiting requests by how much of each is cached, without starving any.

    Requests of a lower `priority` number go first. Among equals the discipline decides:

    * `groups`: `groups` priority groups by cached percentage (of 10 groups 63 % is group 6), first come first served
      inside a group, and slots shared among the groups in proportion to their number, also over many calls.
      A group's share is at least 1 in groups * (groups + 1) / 2 picks, so no group starves.
    * `fcfs`: arrival. `lpm`: longest cached prefix first. `shortest-prefill`: fewest tokens to compute first.

    A follower, whose next uncached page is also in a prompt being prefilled now, is held back until that prefill
    lands, rather than computed twice. `page` is the engine's block size in tokens.
    """

    def __init__(self, discipline: Discipline = "groups", *, groups: int = 10, page: int = 1) -> None:
        if discipline not in get_args(Discipline):
            raise ConfigurationError(f"discipline: unknown {discipline!r}, one of {', '.join(get_args(Discipline))}")
        if groups < 1:
            raise ConfigurationError(f"groups: must be at least 1, not {groups}")
        self.discipline = discipline
        self.groups = groups
        self._page = page
        self._waiting: dict[int, _Waiting] = {}
        self._queue: SortedKeyList[_Waiting] = SortedKeyList(key=lambda waiting: waiting.order)
        self._credit = [0] * (groups + 1)
        self._picked: tuple[int, list[int]] | None = None
        self._leading: dict[int, int] = {}
        self._leaders = RadixTree(page=page)
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    def __contains__(self, id: int) -> bool:
        return id in self._waiting

    def add(self, id: int, tokens: bytes, *, priority: int = 0, now: float) -> None:
        """Queue a request. `tokens` are its packed prompt; `now` is its arrival.

        Raises InvalidRequestError for an empty prompt, or an id that is waiting or being prefilled.
        """
        if id in self._waiting or id in self._leading:
            raise InvalidRequestError(f"{id} is in use", field="id")
        if not tokens:
            raise InvalidRequestError("must not be empty", field="tokens")
        self._arrivals += 1
        waiting = _Waiting(id, tokens, (priority, now, self._arrivals))
        self._waiting[id] = waiting
        self._queue.add(waiting)

    def pick(self, slots: int, *, cached: Callable[[bytes], int], now: float) -> Iterator[int]:
        """Propose up to `slots` requests in order. `cached` gives the tokens of a prompt that need no computing.

        Lazy: call `admit` for each one taken before asking for the next, and stop at the first that does not fit.
        Proposing changes nothing.
        """
        if not self._queue or slots < 1:
            return
        lengths = {waiting.id: cached(waiting.tokens) for waiting in self._queue}
        for waiting in self._ordered(lengths):
            if slots < 1:
                return
            if not self._follows(waiting, lengths[waiting.id]):
                slots -= 1
                yield waiting.id

    def admit(self, id: int) -> None:
        """Take a request out of the queue: its prefill starts, and others may follow it."""
        if self._picked and self._picked[0] == id:
            self._credit = self._picked[1]
        waiting = self._waiting.pop(id)
        self._queue.remove(waiting)
        self._leading[id] = self._leaders.insert(waiting.tokens, _LEADERS)

    def prefilled(self, id: int) -> None:
        """The request's prefill landed, or will never: nobody waits for it any longer."""
        node = self._leading.pop(id, None)
        if node is not None:
            self._leaders.unpin(node, _LEADERS)

    def remove(self, id: int) -> None:
        """Forget a request wherever it is. Unknown ids are ignored."""
        waiting = self._waiting.pop(id, None)
        if waiting is not None:
            self._queue.remove(waiting)
        self.prefilled(id)

    def check(self) -> None:
        """Raise AssertionError if the queue, its index and the leaders disagree."""
        assert {waiting.id for waiting in self._queue} == set(self._waiting), "queue and index differ"
        assert not self._waiting.keys() & self._leading.keys(), "a request both waits and leads"
        leading = Counter(node for node in self._leading.values() if node)
        assert self._leaders.pins(_LEADERS) == leading, "the tree's leaders are not those being prefilled"
        self._leaders.check()

    def _follows(self, waiting: _Waiting, cached: int) -> bool:
        if not self._leading:
            return False
        shared = min(self._leaders.match(waiting.tokens).tokens, waiting.length - 1)
        return shared - shared % self._page > cached

    def _ordered(self, cached: dict[int, int]) -> Iterable[_Waiting]:
        if self.discipline == "lpm":
            return sorted(self._queue, key=lambda w: (w.order[0], -cached[w.id]))
        if self.discipline == "shortest-prefill":
            return sorted(self._queue, key=lambda w: (w.order[0], w.length - cached[w.id]))
        if self.discipline == "fcfs" or len(self._queue) == 1:
            return list(self._queue)
        return self._by_groups(cached)

    def _by_groups(self, cached: dict[int, int]) -> Iterator[_Waiting]:
        """Interleave the groups so that over any stretch of picks group g gets a share proportional to g."""
        levels: dict[int, dict[int, list[_Waiting]]] = {}
        for waiting in reversed(self._queue):
            group = max(1, round(cached[waiting.id] * self.groups / waiting.length))
            levels.setdefault(waiting.order[0], {}).setdefault(group, []).append(waiting)
        for priority in sorted(levels):
            yield from self._share(levels[priority])

    def _share(self, groups: dict[int, list[_Waiting]]) -> Iterator[_Waiting]:
        # Smooth weighted round robin: every group earns its weight each turn, the richest pays for the turn.
        credit = list(self._credit)
        while groups:
            for group in groups:
                credit[group] += group
            richest = max(groups, key=lambda group: (credit[group], group))
            credit[richest] -= sum(groups)
            waiting = groups[richest].pop()
            if not groups[richest]:
                del groups[richest]
            self._picked = (waiting.id, list(credit))
            yield waiting
