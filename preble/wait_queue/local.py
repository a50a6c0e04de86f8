"""The worker's wait queue: which request is prefilled next (paper section 3.3, algorithm 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

from sortedcontainers import SortedKeyList, SortedList

from preble.errors import ConfigurationError, InvalidRequestError
from preble.tree import RadixTree
from preble.wait_queue.disciplines import DEFAULT, DISCIPLINES, Discipline, Order, Waiting

WINDOW = 1024
"""How many requests, by rank and arrival, are ordered for one step; the others are not considered yet."""

_LEADERS = 0  # the one holder in the tree of prompts being prefilled


class LocalScheduler:
    """Orders one worker's waiting requests, knowing how much of each is cached, without starving any.

    A lower `priority` goes first, then an earlier `deadline`. Among equals the discipline decides:

    * `response-ratio`: the longest wait per token to compute;
    * `groups`: the paper's priority groups by cached share, `groups` of them;
    * `fcfs`: the first to arrive;
    * `lpm`: the longest cached prefix;
    * `shortest-prefill`: the fewest tokens to compute;
    * `k-lpm`: the longest cached prefix, but every `k`-th request is the oldest.

    A follower is held back: a request whose next uncached block is also in a prompt that is being prefilled. Once that
    prefill is done the block is cached, and is not computed twice. `block_size` is the engine's, in tokens.

    No request starves: once `patience` requests that came later have been taken before it, it is next, whatever its
    rank, its group or its leader. A request that was preempted and comes back counts as a new one.
    """

    def __init__(
        self,
        discipline: Discipline = DEFAULT,
        *,
        groups: int = 10,
        k: int = 4,
        block_size: int = 1,
        patience: int = 128,
    ) -> None:
        """Raises ConfigurationError for an unknown discipline, or a number below 1."""
        if discipline not in DISCIPLINES:
            raise ConfigurationError(f"discipline: unknown {discipline!r}, one of {', '.join(DISCIPLINES)}")
        for name, value in (("groups", groups), ("k", k), ("block_size", block_size), ("patience", patience)):
            if value < 1:
                raise ConfigurationError(f"{name}: must be at least 1, not {value}")
        self.discipline = discipline
        self.patience = patience
        own = {"groups": (groups,), "k-lpm": (k,)}
        self._order: Order = DISCIPLINES[discipline](*own.get(discipline, ()))
        self._block_size = block_size
        self._waiting: dict[int, Waiting] = {}
        self._queue: SortedKeyList[Waiting] = SortedKeyList(key=lambda waiting: (waiting.rank, waiting.arrived))
        self._overtakers: SortedList[int] = SortedList()
        self._leading: dict[int, int] = {}
        self._leaders = RadixTree(block_size=block_size)
        self._new_leaders: dict[int, bytes] = {}
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    def __contains__(self, id: int) -> bool:
        return id in self._waiting

    def add(self, id: int, tokens: bytes, *, priority: int = 0, deadline: float | None = None, now: float) -> None:
        """Queue a request. `tokens` are its packed prompt; `now` is its arrival, `deadline` a time of the same clock.

        Raises InvalidRequestError for an empty prompt, or an id that is waiting or being prefilled.
        """
        if id in self._waiting or id in self._leading or id in self._new_leaders:
            raise InvalidRequestError(f"{id} is in use", field="id")
        if not tokens:
            raise InvalidRequestError("must not be empty", field="tokens")
        self._arrivals += 1
        waiting = Waiting(id, tokens, priority=priority, deadline=deadline, arrived=now, number=self._arrivals)
        self._waiting[id] = waiting
        self._queue.add(waiting)

    def pick(self, slots: int, *, cached: Callable[[bytes], int], now: float) -> Iterator[int]:
        """Propose up to `slots` requests in order. `cached` returns how many tokens of a packed prompt are cached.

        The iterator is lazy: call `admit` for each request that is taken before asking for the next, and stop at the
        first that does not fit. Proposing changes nothing. Requests whose deadline has passed are not proposed.
        """
        return islice(self._proposals(cached, now), max(0, slots))

    def admit(self, id: int) -> None:
        """Take a request out of the queue: its prefill starts, and it becomes a leader that others may follow."""
        waiting = self._waiting[id]
        self._order.took(waiting)
        self._leave(waiting)
        if self._waiting:
            self._overtakers.add(waiting.number)
        self._new_leaders[id] = waiting.tokens

    def prefilled(self, id: int) -> None:
        """The request's prefill is done or given up: it leads no longer."""
        if self._new_leaders.pop(id, None) is not None:
            return
        node = self._leading.pop(id, None)
        if node is not None:
            self._leaders.unpin(node, _LEADERS)

    def remove(self, id: int) -> None:
        """Forget a request wherever it is. Unknown ids are ignored."""
        if id in self._waiting:
            self._leave(self._waiting[id])
        self.prefilled(id)

    def check(self) -> None:
        """Raise AssertionError if the queue, its index and the leaders disagree."""
        assert {waiting.id for waiting in self._queue} == set(self._waiting), "queue and index differ"
        assert not self._waiting.keys() & (self._leading.keys() | self._new_leaders.keys()), "one both waits and leads"
        assert not self._leading.keys() & self._new_leaders.keys(), "a leader is both new and not"
        leading = Counter(node for node in self._leading.values() if node)
        assert self._leaders.pins(_LEADERS) == leading, "the tree's leaders are not those being prefilled"
        self._leaders.check()

    def _proposals(self, cached: Callable[[bytes], int], now: float) -> Iterator[int]:
        if len(self._queue) == 1 and not self._leading and not self._new_leaders:
            (alone,) = self._waiting.values()  # the usual case of an idle engine: nothing to order or to follow
            if alone.deadline > now:
                yield alone.id
            return
        window = list(islice(self._queue, WINDOW))
        lengths = {waiting.id: cached(waiting.tokens) for waiting in window}
        for waiting in self._order.order(window, lengths, now):
            yield from self._out_of_patience(now)
            if self._may_go(waiting, lengths[waiting.id], now):
                yield waiting.id
        yield from self._out_of_patience(now)

    def _may_go(self, waiting: Waiting, cached: int, now: float) -> bool:
        return waiting.id in self._waiting and waiting.deadline > now and not self._follows(waiting, cached)

    def _out_of_patience(self, now: float) -> Iterator[int]:
        """Yield the oldest request while too many that came later were taken before it.

        Looking at the oldest is enough: whoever overtook a younger one overtook it too.
        """
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            overtaken = len(self._overtakers) - self._overtakers.bisect_right(oldest.number)
            if overtaken < self.patience or oldest.deadline <= now:
                return
            yield oldest.id
            if oldest.id in self._waiting:
                return

    def _leave(self, waiting: Waiting) -> None:
        del self._waiting[waiting.id]
        self._queue.remove(waiting)
        # What is older than all that wait overtook none of them.
        first = next(iter(self._waiting.values())).number if self._waiting else self._arrivals + 1
        del self._overtakers[: self._overtakers.bisect_left(first)]

    def _follows(self, waiting: Waiting, cached: int) -> bool:
        # Leaders are indexed when somebody might follow them, which for most is never.
        for id, tokens in self._new_leaders.items():
            self._leading[id] = self._leaders.insert(tokens, _LEADERS)
        self._new_leaders.clear()
        if not self._leading:
            return False
        shared = min(self._leaders.match(waiting.tokens).tokens, waiting.length - 1)
        return shared - shared % self._block_size > cached
