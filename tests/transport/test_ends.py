"""What both transports promise: the same tests over ZeroMQ and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from preble.errors import FrameError, OverloadedError, UnreachableError
from preble.transport.memory import MemoryDealer, MemoryRouter
from preble.transport.schema import MAX_FRAME
from preble.transport.zeromq import Dealer, Router


class Inbox:
    """Collects frames; `until(count)` waits for that many."""

    def __init__(self) -> None:
        self.frames: list[tuple[bytes, ...]] = []
        self._changed = asyncio.Event()

    def __call__(self, *frame: bytes) -> None:
        self.frames.append(frame)
        self._changed.set()

    async def until(self, count: int) -> list[tuple[bytes, ...]]:
        async with asyncio.timeout(20):
            while len(self.frames) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.frames


class Ends:
    """Makes the ends of one transport."""

    def __init__(self, memory: bool) -> None:
        self._memory = memory
        self._open: list[Callable[[], None]] = []

    def router(self, receive, **options) -> Router | MemoryRouter:
        router = (MemoryRouter if self._memory else Router)(receive, **options)
        self._open.append(router.close)
        return router

    def dealer(self, router, identity, receive, **options) -> Dealer | MemoryDealer:
        to = router if self._memory else router.address
        dealer = (MemoryDealer if self._memory else Dealer)(to, identity, receive, **options)
        self._open.append(dealer.close)
        return dealer

    async def pair(self, **options):
        """Return router, its inbox, dealer, its inbox, introduced to each other."""
        above, below = Inbox(), Inbox()
        router = self.router(above, **options)
        dealer = self.dealer(router, b"a", below, **options)
        dealer.send(b"hello")
        await above.until(1)
        above.frames.clear()
        return router, above, dealer, below

    def close(self) -> None:
        for close in reversed(self._open):
            close()


@pytest.fixture(params=["memory", "zeromq"])
async def ends(request) -> Iterator[Ends]:
    ends = Ends(request.param == "memory")
    yield ends
    ends.close()


async def _send_for(seconds: float, router) -> None:
    async with asyncio.timeout(seconds):
        while True:
            router.send(b"a", b"x")
            await asyncio.sleep(0.001)


def _send_until_full(send: Callable[[bytes], None]) -> int:
    for accepted in range(100_000):
        try:
            send(bytes(1000))
        except OverloadedError:
            return accepted
    pytest.fail("never full")


async def test_frames_go_both_ways(ends):
    router, above, dealer, below = await ends.pair()
    dealer.send(b"up")
    router.send(b"a", b"down")
    assert await above.until(1) == [(b"a", b"up")]
    assert await below.until(1) == [(b"down",)]


async def test_nothing_is_delivered_within_send(ends):
    router, above, dealer, below = await ends.pair()
    dealer.send(b"up")
    router.send(b"a", b"down")
    assert above.frames == below.frames == []


async def test_peers_are_told_apart(ends):
    above, left, right = Inbox(), Inbox(), Inbox()
    router = ends.router(above)
    ends.dealer(router, b"left", left).send(b"l")
    ends.dealer(router, b"right", right).send(b"r")
    assert sorted(await above.until(2)) == [(b"left", b"l"), (b"right", b"r")]
    router.send(b"right", b"1")
    router.send(b"left", b"2")
    assert await right.until(1) == [(b"1",)]
    assert await left.until(1) == [(b"2",)]


async def test_unknown_peer(ends):
    router, _, _, below = await ends.pair()
    with pytest.raises(UnreachableError):
        router.send(b"nobody", b"x")
    router.send(b"a", b"still works")
    assert await below.until(1) == [(b"still works",)]


async def test_a_peer_that_left_becomes_unreachable(ends):
    router, _, dealer, _ = await ends.pair()
    dealer.close()
    with pytest.raises(UnreachableError):
        await _send_for(5.0, router)


async def test_a_second_peer_of_the_same_name_gets_nothing(ends):
    router, _, _, below = await ends.pair()
    stranger = Inbox()
    ends.dealer(router, b"a", stranger)
    await asyncio.sleep(0.05)
    router.send(b"a", b"secret")
    assert await below.until(1) == [(b"secret",)]
    await asyncio.sleep(0.05)
    assert stranger.frames == []


async def test_oversized_frames_are_refused_by_the_sender(ends):
    router, _, dealer, below = await ends.pair()
    large = bytes(MAX_FRAME + 1)
    with pytest.raises(FrameError):
        router.send(b"a", large)
    with pytest.raises(FrameError):
        dealer.send(large)
    router.send(b"a", b"1")
    assert await below.until(1) == [(b"1",)]


async def test_a_full_queue_is_an_error_and_loses_nothing(ends):
    router, above, dealer, below = await ends.pair(high_water=10)
    down = _send_until_full(lambda frame: router.send(b"a", frame))
    up = _send_until_full(dealer.send)
    assert len(await below.until(down)) == down
    assert len(await above.until(up)) == up
    router.send(b"a", b"down")
    dealer.send(b"up")
    assert (await below.until(down + 1))[-1] == (b"down",)
    assert (await above.until(up + 1))[-1] == (b"a", b"up")


async def test_bursts_both_ways_keep_all_and_order(ends):
    router, above, dealer, below = await ends.pair()
    for number in range(10_000):
        router.send(b"a", number.to_bytes(4, "big"))
        dealer.send(number.to_bytes(4, "big"))
    expected = [number.to_bytes(4, "big") for number in range(10_000)]
    assert [frame for _, frame in await above.until(10_000)] == expected
    assert [frame for (frame,) in await below.until(10_000)] == expected


async def test_refused_frames_are_counted_and_the_next_arrive(ends):
    arrived = Inbox()

    def receive(*frame: bytes) -> None:
        if frame[-1] == b"bad":
            raise FrameError("bad")
        arrived(*frame)

    router = ends.router(receive)
    dealer = ends.dealer(router, b"a", receive)
    dealer.send(b"bad")
    dealer.send(b"good")
    await arrived.until(1)
    router.send(b"a", b"bad")
    router.send(b"a", b"good")
    await arrived.until(2)
    assert router.rejected == dealer.rejected == 1


async def test_answers_from_within_the_receiver(ends):
    """A ping-pong in which every send happens while the sender drains its socket."""
    done = asyncio.Event()

    def count_down(peer: bytes, frame: bytes) -> None:
        number = int(frame)
        router.send(peer, str(number - 1).encode()) if number else done.set()

    router = ends.router(count_down)
    dealer = ends.dealer(router, b"a", lambda frame: dealer.send(frame))
    dealer.send(b"500")
    async with asyncio.timeout(20):
        await done.wait()


async def test_closed_ends_are_silent(ends):
    router, above, dealer, below = await ends.pair()
    dealer.send(b"up")
    router.close()
    router.close()
    dealer.close()
    dealer.close()
    await asyncio.sleep(0.01)
    assert above.frames == below.frames == []
    with pytest.raises(UnreachableError):
        router.send(b"a", b"x")
    with pytest.raises(UnreachableError):
        dealer.send(b"x")
