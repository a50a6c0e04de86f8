"""What may be called from where: the books of a cluster, asked for by other threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from preble import ClosedError, NotStartedError, PrebleCluster, StateError, WrongLoopError
from preble.cluster import state
from tests.cluster.cases import GREEDY, prompt


async def test_the_books_can_be_read_from_any_thread():
    async with PrebleCluster(backend="sim", workers=2, processes=False) as cluster:
        out = await cluster.generate(prompt(1), GREEDY)
        assert (await asyncio.to_thread(cluster.stats)).counters == cluster.stats().counters
        assert (await asyncio.to_thread(cluster.explain, out.id)).worker == out.worker
        assert await asyncio.to_thread(cluster.worker_pids) == {}
        await asyncio.to_thread(cluster.check)
        with pytest.raises(KeyError):
            await asyncio.to_thread(cluster.explain, "nobody's")

        async def elsewhere() -> int:
            return cluster.stats().counters.finished

        assert await asyncio.to_thread(asyncio.run, elsewhere()) == 1


async def test_what_another_thread_reads_is_of_one_moment():
    async with PrebleCluster(backend="sim", workers=2, processes=False) as cluster:
        moments = []
        work = asyncio.create_task(cluster.generate_many((prompt(number) for number in range(400)), GREEDY))

        def read() -> None:
            while not work.done():
                moments.append(cluster.stats())

        await asyncio.gather(work, asyncio.to_thread(read))
        assert any(moment.in_flight for moment in moments)
        for moment in moments:
            counters = moment.counters
            ended = counters.finished + counters.failed + counters.cancelled
            assert counters.submitted - ended == moment.in_flight == sum(worker.requests for worker in moment.workers)


def test_the_books_can_be_read_while_no_loop_runs():
    with asyncio.Runner() as runner:
        cluster = PrebleCluster(backend="sim", workers=1, processes=False)
        with pytest.raises(NotStartedError):
            cluster.stats()
        runner.run(cluster.start())
        assert cluster.stats().workers[0].worker == "w0"
        runner.run(cluster.close())
        with pytest.raises(ClosedError):
            cluster.stats()


async def test_a_blocked_loop_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state, "PATIENCE", 0.05)
    async with PrebleCluster(backend="sim", workers=1, processes=False) as cluster:
        said: list[Exception] = []

        def ask() -> None:
            try:
                cluster.stats()
            except StateError as error:
                said.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        while asking.is_alive():
            asking.join(0.01)  # which blocks the loop
        assert "blocked" in str(said[0])


async def test_another_loop_is_told_of_the_way_out():
    async with PrebleCluster(backend="sim", workers=1, processes=False) as cluster:

        async def elsewhere() -> None:
            await cluster.generate(prompt(1), GREEDY)

        with pytest.raises(WrongLoopError, match=r"preble\.SyncCluster"):
            await asyncio.to_thread(asyncio.run, elsewhere())
