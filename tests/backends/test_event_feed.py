from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq

from preble.backends.event_feed import EventFeed
from preble.errors import EngineDeadError, EngineError


class Publisher:
    """Publishes as the engines do, and keeps what it published for whoever asks."""

    def __init__(self, folder: Path) -> None:
        self.context = zmq.Context()
        self.endpoint, self.replay_endpoint = f"ipc://{folder}/e", f"ipc://{folder}/r"
        self.live = self.context.socket(zmq.XPUB)
        self.live.bind(self.endpoint)
        self.replay = self.context.socket(zmq.ROUTER)
        self.replay.bind(self.replay_endpoint)
        self.kept: dict[int, bytes] = {}

    def subscribed(self) -> None:
        assert self.live.poll(5000)
        self.live.recv()

    def publish(self, *numbers: int) -> None:
        for number in numbers:
            self.live.send_multipart([b"kv", number.to_bytes(8, "big"), f"batch {number}".encode()])

    def answer(self) -> int:
        assert self.replay.poll(5000)
        peer, _, start = self.replay.recv_multipart()
        first = int.from_bytes(start, "big")
        for number, body in sorted(self.kept.items()):
            if number >= first:
                self.replay.send_multipart([peer, b"", b"kv", number.to_bytes(8, "big"), body])
        self.replay.send_multipart([peer, b"", b"", (-1).to_bytes(8, "big", signed=True), b""])
        return first


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Publisher]:
    publisher = Publisher(tmp_path)
    yield publisher
    publisher.context.destroy(linger=0)


async def drained(feed: EventFeed, seen: list[str], until: str) -> None:
    async with asyncio.timeout(5):
        while until not in seen:
            feed.drain()
            await asyncio.sleep(0.001)


async def gap_noticed(feed: EventFeed) -> None:
    """Drain until numbers are missing, and once more: then they have been asked for."""
    async with asyncio.timeout(5):
        while feed.whole:
            feed.drain()
            await asyncio.sleep(0.001)
    feed.drain()


def follow(publisher: Publisher, seen: list[str], *, replay: bool, patience: int = 100) -> EventFeed:
    feed = EventFeed(
        publisher.endpoint,
        take=lambda body: seen.append(body.decode()),
        lost=lambda: seen.append("lost"),
        replay=publisher.replay_endpoint if replay else None,
        topic="kv",
        patience=patience,
    )
    publisher.subscribed()
    return feed


async def test_batches_come_in_order_once(publisher: Publisher):
    seen: list[str] = []
    feed = follow(publisher, seen, replay=True)
    publisher.publish(0, 1, 1, 0, 2)
    await drained(feed, seen, "batch 2")
    assert seen == ["batch 0", "batch 1", "batch 2"]
    assert feed.whole
    feed.close()
    feed.close()


async def test_messages_of_another_form_are_nobody_s(publisher: Publisher):
    seen: list[str] = []
    feed = follow(publisher, seen, replay=False)
    for frames in ([b"kv"], [b"kv", b"0"], [b"kv", b"0", b"batch", b"more"]):
        publisher.live.send_multipart(frames)
    publisher.publish(0)
    await drained(feed, seen, "batch 0")
    assert seen == ["batch 0"]
    feed.close()


async def test_a_gap_is_filled_from_what_the_publisher_kept(publisher: Publisher):
    seen: list[str] = []
    feed = follow(publisher, seen, replay=True)
    publisher.kept = {number: f"batch {number}".encode() for number in range(5)}
    publisher.publish(0, 3)
    await drained(feed, seen, "batch 0")
    await gap_noticed(feed)
    assert publisher.answer() == 1
    publisher.publish(4, 5)
    await drained(feed, seen, "batch 5")
    assert seen == [f"batch {number}" for number in range(6)]
    feed.close()


async def test_what_the_publisher_no_longer_has_is_lost_once(publisher: Publisher):
    seen: list[str] = []
    feed = follow(publisher, seen, replay=True)
    publisher.kept = {number: f"batch {number}".encode() for number in (3, 4)}
    publisher.publish(0, 4)
    await drained(feed, seen, "batch 0")
    await gap_noticed(feed)
    publisher.answer()
    await drained(feed, seen, "batch 4")
    assert seen == ["batch 0", "lost", "batch 4"]
    feed.close()


async def test_without_a_replay_address_a_gap_is_a_loss(publisher: Publisher):
    seen: list[str] = []
    feed = follow(publisher, seen, replay=False)
    publisher.publish(2, 3)
    await drained(feed, seen, "batch 3")
    assert seen == ["lost", "batch 2", "batch 3"]
    feed.close()


async def test_a_replay_that_never_comes_is_not_waited_for_without_end(publisher: Publisher):
    seen: list[str] = []
    feed = follow(publisher, seen, replay=True, patience=3)
    publisher.publish(2, 3, 4, 5)
    await drained(feed, seen, "batch 5")
    assert seen == ["lost", "batch 2", "batch 3", "batch 4", "batch 5"]
    feed.close()


async def test_after_a_batch_that_makes_no_sense_every_drain_says_so(publisher: Publisher):
    seen: list[bytes] = []

    def take(body: bytes) -> None:
        seen.append(body)
        raise EngineError("not understood")

    feed = EventFeed(publisher.endpoint, take=take, lost=lambda: None)
    publisher.subscribed()
    publisher.publish(0, 1)
    with pytest.raises(EngineDeadError, match="not understood"):
        await drained(feed, [], "batch 0")
    with pytest.raises(EngineDeadError, match="not understood"):
        feed.drain()
    assert seen == [b"batch 0"]
    feed.close()
