"""The queue in front of an engine that batches by itself: who may enter it, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from preble.backends import EngineRequest
from preble.errors import InvalidRequestError
from preble.tokens import TOKEN_BYTES
from preble.tree import Namespaces
from preble.wait_queue.local import LocalScheduler


class _Ticket:
    """One request at the door, and its key in the queue.

    It is `inside` when it has been let in, and has `begun` when its task, a moment later, goes to the engine.
    """

    __slots__ = ("begun", "entered", "inside", "key", "refused")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.inside = self.refused = self.begun = False


class Admission:
    """Lets requests into an engine in the order of a `LocalScheduler`, as few as keep its batch full.

    The engine has its own waiting line, which knows neither our order nor our moves: it is kept short. Inside are at
    most `max_running` requests and `spare` that wait there for the next slot, so that none stays empty for the time
    of a round trip. Of those, no more are to be prefilled than it takes to have `ahead` tokens behind the first: one
    step is being computed, and the next must find its tokens there. How much of the first is left, nobody says.

    `cached(tokens, salt)` gives the tokens of a packed prompt that the engine need not compute; `refresh`, called
    before the queue is looked at, learns what the cache holds by now. Needs a running loop.
    """

    def __init__(
        self,
        local: LocalScheduler,
        *,
        cached: Callable[[bytes, str], int],
        refresh: Callable[[], None] = lambda: None,
        max_running: int,
        ahead: int,
        spare: int = 2,
    ) -> None:
        self._local = local
        self._cached = cached
        self._refresh = refresh
        self._room = max_running + spare
        self._ahead = ahead
        self._namespaces = Namespaces(self._in_use)
        self._tickets: dict[int, _Ticket] = {}
        self._inside = 0
        self._prefilling: dict[int, int] = {}  # tokens to compute of those inside, in the order they came in
        self._pending = 0
        self._due: asyncio.Handle | None = None
        self._paused = False

    @property
    def waiting(self) -> int:
        """Requests at the door."""
        return self._local.waiting

    @property
    def inside(self) -> int:
        """Requests that were let in and have not left."""
        return self._inside

    def __contains__(self, id: int) -> bool:
        return id in self._tickets

    @asynccontextmanager
    async def enter(self, request: EngineRequest) -> AsyncIterator[bool]:
        """Wait until the request may go into the engine, for which it must `begin`. Yields False if it was refused.

        Inside the block it has its place there. A request whose time is up is not let in: it waits until it is refused
        or cancelled. Raises InvalidRequestError if a request of this id is here already.
        """
        ticket = self._add(request)
        try:
            await ticket.entered
            yield not ticket.refused
        finally:
            self._leave(request.id)

    def begin(self, id: int) -> bool:
        """Say that a request that was let in goes to the engine now; return False if it was refused and must not."""
        ticket = self._tickets[id]
        ticket.begun = not ticket.refused
        return ticket.begun

    def refuse(self, id: int) -> bool:
        """End the waiting of a request that has not begun; return whether there was one."""
        ticket = self._tickets.get(id)
        if ticket is None or ticket.begun:
            return False
        ticket.refused = True
        if not ticket.entered.done():
            self._local.remove(id)
            ticket.entered.set_result(None)
        return True

    def refuse_all(self) -> None:
        """End the waiting of all."""
        for id in list(self._tickets):
            self.refuse(id)

    def prefilled(self, id: int) -> None:
        """The request's first token is there: its prompt is computed, and others may follow."""
        if id in self._prefilling:
            self._pending -= self._prefilling.pop(id)
            self._local.prefilled(id)
            self._soon()

    def pause(self) -> None:
        """Let nobody in until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Let requests in again."""
        self._paused = False
        self._soon()

    def check(self) -> None:
        """Raise AssertionError if queue, tickets and counts disagree."""
        self._local.check()
        self._namespaces.check()
        tickets = self._tickets.values()
        assert self._inside == sum(ticket.inside for ticket in tickets), "the count of those inside is off"
        assert self._pending == sum(self._prefilling.values()), "the count of pending tokens is off"
        inside = {id for id, ticket in self._tickets.items() if ticket.inside}
        assert self._prefilling.keys() <= inside, "some are prefilled that are not inside"
        waiting = sum(not ticket.entered.done() for ticket in tickets)
        assert self._local.waiting == waiting, "the queue holds others than those who wait"
        assert self._inside <= self._room, "more inside than there is room"

    def _add(self, request: EngineRequest) -> _Ticket:
        if request.id in self._tickets:
            raise InvalidRequestError(f"{request.id} is in use", field="id")
        now = asyncio.get_running_loop().time()
        deadline = None if request.remaining is None else now + request.remaining
        key = self._namespaces.key(request.cache_salt, request.tokens)
        self._local.add(request.id, key, priority=request.priority, deadline=deadline, now=now)
        ticket = self._tickets[request.id] = _Ticket(key)
        self._soon()
        return ticket

    def _leave(self, id: int) -> None:
        ticket = self._tickets.pop(id)
        self._local.remove(id)
        self._pending -= self._prefilling.pop(id, 0)
        self._inside -= ticket.inside
        self._soon()

    def _soon(self) -> None:
        """Look at the queue at the end of this iteration of the loop, once for all that happens in it."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self._open)

    def _open(self) -> None:
        self._due = None
        if self._paused or not self._local.waiting or not self._has_room():
            return
        self._refresh()
        now = asyncio.get_running_loop().time()
        for id in self._local.pick(self._room - self._inside, cached=self._cached_of, now=now):
            if not self._has_room():
                break
            self._admit(id)

    def _has_room(self) -> bool:
        behind = self._pending - next(iter(self._prefilling.values()), 0)
        return self._inside < self._room and (behind < self._ahead or not self._prefilling)

    def _admit(self, id: int) -> None:
        self._local.admit(id)
        ticket = self._tickets[id]
        ticket.inside = True
        self._prefilling[id] = max(1, len(ticket.key) // TOKEN_BYTES - self._cached_of(ticket.key))
        self._inside += 1
        self._pending += self._prefilling[id]
        if not ticket.entered.done():
            ticket.entered.set_result(None)

    def _cached_of(self, key: bytes) -> int:
        salt, tokens = self._namespaces.prompt(key)
        return self._cached(tokens, salt)

    def _in_use(self, first: bytes) -> bool:
        return any(ticket.key.startswith(first) for ticket in self._tickets.values())
