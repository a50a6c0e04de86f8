from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
import zmq

pytest.importorskip("aiohttp", reason="the openai engine needs aiohttp")

from preble.backends import Evicted
from preble.backends.openai.engine import OpenAIEngine
from preble.backends.openai.events import KvEvents
from preble.tokens import pack
from tests.openai_server import OpenAIServer

IDS = list(range(10, 42))
STORED = {"type": "BlockStored", "block_hashes": [1, 2], "parent_block_hash": None, "token_ids": IDS, "block_size": 16}
REMOVED = {"type": "BlockRemoved", "block_hashes": [2]}


class Publisher:
    """Publishes as vLLM does."""

    def __init__(self, folder: Path) -> None:
        self.context = zmq.Context()
        self.endpoint = f"ipc://{folder}/e"
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.bind(self.endpoint)
        self.number = 0

    def publish(self, *events: object) -> None:
        body = msgspec.msgpack.encode([0.0, events, 0])
        self.socket.send_multipart([b"kv", self.number.to_bytes(8, "big"), body])
        self.number += 1

    def subscribed(self) -> None:
        """Wait until somebody is; XPUB tells when one leaves, too."""
        while True:
            assert self.socket.poll(5000)
            if self.socket.recv().startswith(b"\x01"):
                return


@pytest.fixture
def publisher(tmp_path: Path):
    publisher = Publisher(tmp_path)
    yield publisher
    publisher.context.destroy(linger=0)


async def evictions(source: KvEvents | OpenAIEngine) -> list[Evicted]:
    read = source.cache_events if isinstance(source, OpenAIEngine) else source.evicted
    async with asyncio.timeout(10):
        while not (found := read()):
            await asyncio.sleep(0.005)
    return found


async def test_a_replica_that_publishes_events_reports_its_evictions(publisher: Publisher):
    async with OpenAIServer() as server:
        engine = OpenAIEngine(url=server.url, kv_events=publisher.endpoint, vocab_size=4096)
        assert (await engine.start()).reports_evictions
        publisher.subscribed()
        publisher.publish(STORED)
        publisher.publish(REMOVED)
        assert await evictions(engine) == [Evicted(pack(IDS), 16)]
        await engine.close()
        assert engine.cache_events() == [], "a worker asks once more before it says that it has stopped"


async def test_a_restarted_server_counts_its_events_anew(publisher: Publisher):
    async with OpenAIServer() as server:
        engine = OpenAIEngine(url=server.url, kv_events=publisher.endpoint, vocab_size=4096)
        for _ in range(2):
            await engine.start()
            publisher.subscribed()
            publisher.number = 0
            publisher.publish(STORED, REMOVED)
            assert await evictions(engine) == [Evicted(pack(IDS), 16)]
        await engine.close()


async def test_events_that_are_not_understood_forget_everything(publisher: Publisher, caplog: pytest.LogCaptureFixture):
    events = KvEvents(publisher.endpoint, replay=None, block_size=16)
    publisher.subscribed()
    for _ in range(2):
        publisher.publish(STORED)
        publisher.publish({"type": "BlockPainted"})
        assert await evictions(events) == [Evicted(b"", 0)]
    assert caplog.text.count("not understood, so that what is cached is forgotten") == 1
    events.close()


@pytest.mark.parametrize("told", [16, 64])
async def test_blocks_of_another_size_than_the_server_told_are_used(
    publisher: Publisher, caplog: pytest.LogCaptureFixture, told: int
):
    events = KvEvents(publisher.endpoint, replay=None, block_size=told)
    publisher.subscribed()
    stored = {**STORED, "block_hashes": [1], "block_size": 32}
    for name in (1, 2):
        publisher.publish(stored | {"block_hashes": [name]})
        publisher.publish({**REMOVED, "block_hashes": [name]})
        assert await evictions(events) == [Evicted(pack(IDS), 0)]
    assert caplog.text.count("give block_size=32") == 1
    events.close()


async def test_blocks_of_different_sizes_are_warned_of(publisher: Publisher, caplog: pytest.LogCaptureFixture):
    events = KvEvents(publisher.endpoint, replay=None, block_size=16)
    publisher.subscribed()
    odd = {**STORED, "block_hashes": [3], "block_size": 32}
    publisher.publish(STORED, odd)
    publisher.publish(odd, REMOVED)
    assert await evictions(events) == [Evicted(pack(IDS), 16)]
    assert caplog.text.count("left out: their blocks do not have 16 tokens") == 1
    events.close()


async def test_events_that_are_missing_are_warned_of(publisher: Publisher, caplog: pytest.LogCaptureFixture):
    events = KvEvents(publisher.endpoint, replay=None, block_size=16)
    publisher.subscribed()
    for _ in range(2):
        publisher.publish(STORED)
        publisher.number += 1
        publisher.publish(STORED)
        assert await evictions(events) == [Evicted(b"", 0)]
    assert caplog.text.count("lost, so that what is cached is forgotten") == 1
    events.close()


async def test_a_reset_is_told_at_once_although_its_event_comes_later(publisher: Publisher):
    async with OpenAIServer() as server:
        engine = OpenAIEngine(url=server.url, kv_events=publisher.endpoint, vocab_size=4096)
        await engine.start()
        publisher.subscribed()
        await engine.reset_cache()
        assert engine.cache_events() == [Evicted(b"", 0)]
        assert engine.cache_events() == []
        await engine.close()
