"""Faults: what each does to requests, and what heals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from preble import PrebleCluster, SamplingParams
from preble.errors import EngineError
from preble.testing import Faults

SHORT = SamplingParams(max_tokens=3, temperature=0.0)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def cluster(faults: Faults) -> AsyncIterator[PrebleCluster]:
    async with PrebleCluster(backend=faults.around("sim"), processes=False, workers=2) as cluster:
        yield cluster
        cluster.check()


async def test_a_stopped_worker_goes_on_when_it_is_healed(faults: Faults, cluster: PrebleCluster):
    whole = await cluster.generate([1, 2, 3], SHORT)
    faults.stop("w0")
    faults.stop("w1")
    asked = asyncio.ensure_future(cluster.generate([1, 2, 3], SHORT))
    async with asyncio.timeout(120):
        while not cluster.stats().in_flight:
            await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not asked.done()
    faults.heal()
    assert (await asked).token_ids == whole.token_ids


async def test_who_is_refused_goes_elsewhere(faults: Faults, cluster: PrebleCluster):
    faults.refuse("w0")
    assert {(await cluster.generate([number, 2], SHORT)).worker for number in range(5)} == {"w1"}
    faults.refuse("w1")
    with pytest.raises(EngineError, match="told to refuse"):
        await cluster.generate([1, 2, 3], SHORT)


async def test_a_killed_worker_is_lost_and_its_requests_go_on(faults: Faults, cluster: PrebleCluster):
    whole = await cluster.generate([1, 2, 3], SHORT)
    faults.slow("w0", 0.001)
    faults.slow("w1", 0.001)
    chunks = cluster.stream([1, 2, 3], SHORT)
    first = await anext(chunks)
    faults.kill(first.worker)
    rest = [chunk async for chunk in chunks]
    assert sum((chunk.token_ids for chunk in rest), first.token_ids) == whole.token_ids
    async with asyncio.timeout(120):
        while not any(each.status == "lost" for each in cluster.stats().workers):
            await asyncio.sleep(0.01)


async def test_workers_are_named(faults: Faults, cluster: PrebleCluster):
    with pytest.raises(KeyError, match="w7"):
        faults.kill("w7")
