"""The wait queue in front of an engine that batches by itself (vLLM, SGLang): which request enters it, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from preble.backends import EngineRequest
from preble.errors import InvalidRequestError
from preble.tokens import TOKEN_BYTES
from preble.tree import Namespaces
from preble.wait_queue.local import LocalScheduler


class _Entry:
    """One request that waits or is inside the engine, and its key in the queue.

    It is `inside` from the moment that it is admitted, and has `begun` when its own task, which runs a moment later,
    hands it to the engine.
    """

    __slots__ = ("begun", "entered", "inside", "key", "refused")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.inside = self.refused = self.begun = False


class Admission:
    """Lets requests into an engine in the order of a `LocalScheduler`, no more of them than keep its batch full.

    The engine has a wait queue of its own, which does not know our order and from which requests cannot be moved to
    another worker, so that queue is kept short. At most `max_running + spare` requests are inside the engine: the
    `spare` ones fill a slot that becomes free without waiting for a round trip. A further request is admitted only
    while the prompts inside that wait for their prefill, without the oldest of them, have fewer than `prefill_ahead`
    uncached tokens in all. The oldest does not count because nobody knows how much of it is computed already; the
    others are what the engine's next step can take.

    `cached(tokens, salt)` returns how many leading tokens of a packed prompt the engine need not compute. `refresh` is
    called before the queue is looked at, to bring that up to date. Needs a running event loop.
    """

    def __init__(
        self,
        local: LocalScheduler,
        *,
        cached: Callable[[bytes, str], int],
        refresh: Callable[[], None] = lambda: None,
        max_running: int,
        prefill_ahead: int,
        spare: int = 2,
    ) -> None:
        self._local = local
        self._cached = cached
        self._refresh = refresh
        self._room = max_running + spare
        self._prefill_ahead = prefill_ahead
        self._namespaces = Namespaces(self._in_use)
        self._entries: dict[int, _Entry] = {}
        self._inside = 0
        self._prefilling: dict[int, int] = {}  # tokens to compute of those inside, in the order they came in
        self._pending = 0
        self._due: asyncio.Handle | None = None
        self._paused = False

    @property
    def waiting(self) -> int:
        """Number of requests that have not been admitted."""
        return self._local.waiting

    @property
    def inside(self) -> int:
        """Number of requests that were admitted and have not ended."""
        return self._inside

    def __contains__(self, id: int) -> bool:
        return id in self._entries

    @asynccontextmanager
    async def enter(self, request: EngineRequest) -> AsyncIterator[bool]:
        """Wait until the request is admitted; yield True then, or False if it was refused.

        It has its place in the engine until the block ends, and calls `begin` when it goes there. A request whose time
        is up is not admitted: it waits until it is refused or cancelled. Raises InvalidRequestError if another request
        has the same id.
        """
        entry = self._add(request)
        try:
            await entry.entered
            yield not entry.refused
        finally:
            self._leave(request.id)

    def begin(self, id: int) -> bool:
        """Note that an admitted request goes to the engine now. Return False if it was refused and must not go."""
        entry = self._entries[id]
        entry.begun = not entry.refused
        return entry.begun

    def refuse(self, id: int) -> bool:
        """Refuse a request that has not gone to the engine yet; return whether there was one."""
        entry = self._entries.get(id)
        if entry is None or entry.begun:
            return False
        entry.refused = True
        if not entry.entered.done():
            self._local.remove(id)
            entry.entered.set_result(None)
        return True

    def refuse_all(self) -> None:
        """Refuse all requests that have not gone to the engine yet."""
        for id in list(self._entries):
            self.refuse(id)

    def prefilled(self, id: int) -> None:
        """Note that a request's first token has come: its prompt is computed, and others may follow."""
        if id in self._prefilling:
            self._pending -= self._prefilling.pop(id)
            self._local.prefilled(id)
            self._soon()

    def pause(self) -> None:
        """Admit no request until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Admit requests again."""
        self._paused = False
        self._soon()

    def check(self) -> None:
        """Raise AssertionError if queue, entries and counts disagree."""
        self._local.check()
        self._namespaces.check()
        entries = self._entries.values()
        assert self._inside == sum(entry.inside for entry in entries), "the count of those inside is off"
        assert self._pending == sum(self._prefilling.values()), "the count of pending tokens is off"
        inside = {id for id, entry in self._entries.items() if entry.inside}
        assert self._prefilling.keys() <= inside, "some are prefilled that are not inside"
        waiting = sum(not entry.entered.done() for entry in entries)
        assert self._local.waiting == waiting, "the queue holds others than those who wait"
        assert self._inside <= self._room, "more inside than there is room"

    def _add(self, request: EngineRequest) -> _Entry:
        if request.id in self._entries:
            raise InvalidRequestError(f"{request.id} is in use", field="id")
        now = asyncio.get_running_loop().time()
        deadline = None if request.remaining is None else now + request.remaining
        key = self._namespaces.key(request.cache_salt, request.tokens)
        self._local.add(request.id, key, priority=request.priority, deadline=deadline, now=now)
        entry = self._entries[request.id] = _Entry(key)
        self._soon()
        return entry

    def _leave(self, id: int) -> None:
        entry = self._entries.pop(id)
        self._local.remove(id)
        self._pending -= self._prefilling.pop(id, 0)
        self._inside -= entry.inside
        self._soon()

    def _soon(self) -> None:
        """Look at the queue once at the end of this iteration of the event loop, whatever else happens in it."""
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
        return self._inside < self._room and (behind < self._prefill_ahead or not self._prefilling)

    def _admit(self, id: int) -> None:
        self._local.admit(id)
        entry = self._entries[id]
        entry.inside = True
        self._prefilling[id] = max(1, len(entry.key) // TOKEN_BYTES - self._cached_of(entry.key))
        self._inside += 1
        self._pending += self._prefilling[id]
        if not entry.entered.done():
            entry.entered.set_result(None)

    def _cached_of(self, key: bytes) -> int:
        salt, tokens = self._namespaces.prompt(key)
        return self._cached(tokens, salt)

    def _in_use(self, first: bytes) -> bool:
        return any(entry.key.startswith(first) for entry in self._entries.values())
