"""The same ends as in `preble.transport.zeromq`, within one event loop: for engines in this process and for tests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from preble.errors import FrameError, OverloadedError, UnreachableError
from preble.transport.schema import MAX_FRAME
from preble.transport.zeromq import HIGH_WATER


class MemoryRouter:
    """Does what `Router` does. Its peers are the `MemoryDealer`s that were made with it."""

    def __init__(self, receive: Callable[[bytes, bytes], None], *, high_water: int = HIGH_WATER) -> None:
        self.address = "memory"
        self.rejected = 0
        self._receive = receive
        self._high_water = high_water
        self._links: dict[bytes, _Link] = {}

    def send(self, peer: bytes, frame: bytes) -> None:
        """As `Router.send`."""
        if peer not in self._links:
            raise UnreachableError("no such peer")
        self._links[peer].send(frame)

    def close(self) -> None:
        """As `Router.close`."""
        self._links.clear()
        self._receive = _nowhere

    def attach(self, identity: bytes, receive: Callable[[bytes], None]) -> _Link:
        """Connect a peer by the name `identity`; return its link to here. A second peer of one name gets no frames."""
        self._links.setdefault(identity, _Link(receive, self._high_water))
        return _Link(partial(self._deliver, identity), self._high_water)

    def detach(self, identity: bytes, receive: Callable[[bytes], None]) -> None:
        """Disconnect the peer `identity`, if it is the one with this `receive`."""
        link = self._links.get(identity)
        if link and link.deliver == receive:
            del self._links[identity]

    def _deliver(self, peer: bytes, frame: bytes) -> None:
        try:
            self._receive(peer, frame)
        except FrameError:
            self.rejected += 1


class MemoryDealer:
    """Does what `Dealer` does."""

    def __init__(
        self,
        router: MemoryRouter,
        identity: bytes,
        receive: Callable[[bytes], None],
        *,
        high_water: int = HIGH_WATER,
    ) -> None:
        self.rejected = 0
        self._receive = receive
        self._router = router
        self._identity = identity
        self._link = router.attach(identity, self._deliver)
        self._link.high_water = high_water
        self._closed = False

    def send(self, frame: bytes) -> None:
        """As `Dealer.send`."""
        if self._closed:
            raise UnreachableError("the transport is closed")
        self._link.send(frame)

    def close(self, *, linger: float = 0.0) -> None:
        """As `Dealer.close`. What is queued is delivered, whatever `linger` is."""
        if not self._closed:
            self._closed = True
            self._router.detach(self._identity, self._deliver)
            self._receive = _nowhere

    def _deliver(self, frame: bytes) -> None:
        try:
            self._receive(frame)
        except FrameError:
            self.rejected += 1


class _Link:
    """One direction between two ends. Its own queue keeps the order even on a loop that shuffles callbacks."""

    def __init__(self, deliver: Callable[[bytes], None], high_water: int) -> None:
        self.high_water = high_water
        self.deliver = deliver
        self._frames: deque[bytes] = deque()

    def send(self, frame: bytes) -> None:
        if len(frame) > MAX_FRAME:
            raise FrameError(f"frame of {len(frame)} bytes, the limit is {MAX_FRAME}")
        if len(self._frames) >= self.high_water:
            raise OverloadedError("the peer's queue is full", retry_after=0.01)
        self._frames.append(frame)
        asyncio.get_running_loop().call_soon(self._deliver_next)

    def _deliver_next(self) -> None:
        self.deliver(self._frames.popleft())


def _nowhere(*_: bytes) -> None:
    """Drop a frame for a closed end."""
