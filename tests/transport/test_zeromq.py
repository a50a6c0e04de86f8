"""What only sockets can get wrong."""

from __future__ import annotations

import asyncio
import stat
import tempfile
import time
from pathlib import Path

import pytest
import zmq

from preble.transport import zeromq
from preble.transport.zeromq import Dealer, Router
from tests.transport.test_ends import Inbox

LOOPS = [asyncio.new_event_loop]
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS.append(uvloop.new_event_loop)


async def test_the_address_is_private_and_removed():
    router = Router(Inbox())
    path = Path(router.address.removeprefix("ipc://"))
    assert len(str(path)) < 100
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    router.close()
    assert not path.parent.exists()


async def test_a_long_temporary_directory_is_avoided(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    (tmp_path / ("x" * 100)).mkdir()
    router = Router(Inbox())
    assert len(router.address) < 107
    router.close()


async def test_loopback_where_there_is_no_ipc(monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    above, below = Inbox(), Inbox()
    router = Router(above)
    dealer = Dealer(router.address, b"a", below)
    assert router.address.startswith("tcp://127.0.0.1:")
    dealer.send(b"up")
    await above.until(1)
    router.send(b"a", b"down")
    assert await below.until(1) == [(b"down",)]
    dealer.close()
    router.close()


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("swallower", ["router", "dealer"])
def test_a_send_that_swallows_the_edge(new_loop, swallower):
    """The descriptor fires while the loop is busy; the send after that takes the event off the descriptor."""

    async def main() -> None:
        above, below = Inbox(), Inbox()
        router = Router(above)
        dealer = Dealer(router.address, b"a", below)
        dealer.send(b"hello")
        await above.until(1)
        await asyncio.sleep(0.05)
        ends = [(lambda: dealer.send(b"1"), lambda: router.send(b"a", b"2"))]
        first, second = ends[0] if swallower == "router" else ends[0][::-1]
        first()
        time.sleep(0.05)  # noqa: ASYNC251 - the loop must not see the descriptor yet
        second()
        await above.until(2)
        await below.until(1)
        dealer.close()
        router.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_the_loop_is_not_starved(monkeypatch):
    monkeypatch.setattr(zeromq, "BURST", 10)
    above = Inbox()
    router = Router(above)
    dealer = Dealer(router.address, b"a", Inbox())
    turns = 0
    for _ in range(1000):
        dealer.send(b"x")
    while len(above.frames) < 1000:
        before = len(above.frames)
        await asyncio.sleep(0)
        turns += 1
        assert len(above.frames) - before <= 10
    assert turns >= 100
    dealer.close()
    router.close()


@pytest.mark.parametrize("parts", [1, 3, 9, 2000])
async def test_messages_of_other_shapes_are_dropped_and_counted(parts):
    above = Inbox()
    router = Router(above)
    context = zmq.Context()
    raw = context.socket(zmq.DEALER if parts > 1 else zmq.REQ)
    raw.connect(router.address)
    raw.send_multipart([b"x"] * parts)
    dealer = Dealer(router.address, b"a", Inbox())
    while not above.frames or not router.rejected:
        dealer.send(b"good")
        await asyncio.sleep(0.01)
    assert router.rejected == 1
    assert set(above.frames) == {(b"a", b"good")}
    context.destroy(linger=0)
    dealer.close()
    router.close()


async def test_a_receiver_that_fails_does_not_stop_the_pump():
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    arrived = Inbox()

    def receive(*frame: bytes) -> None:
        if frame[-1] == b"bad":
            raise ZeroDivisionError
        arrived(*frame)

    router = Router(receive)
    dealer = Dealer(router.address, b"a", Inbox())
    dealer.send(b"bad")
    dealer.send(b"good")
    assert await arrived.until(1) == [(b"a", b"good")]
    assert isinstance(reported[0]["exception"], ZeroDivisionError)
    dealer.close()
    router.close()


async def test_lingering_delivers_the_last_word():
    above = Inbox()
    router = Router(above)
    dealer = Dealer(router.address, b"a", Inbox())
    dealer.send(b"last")
    dealer.close(linger=5.0)
    assert await above.until(1) == [(b"a", b"last")]
    router.close()
