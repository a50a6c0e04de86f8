"""Arrangements of fixtures and event loops in which clusters of others hang: here they pass, or fail at once."""

from __future__ import annotations

from tests.pytest_plugin.conftest import Run

MINE = """
import asyncio
import pytest
from preble import PrebleCluster, SamplingParams

SHORT = SamplingParams(max_tokens=2)

@pytest.fixture(scope="session")
async def mine():
    async with PrebleCluster(backend="sim", processes=False) as cluster:
        cluster.loop = asyncio.get_running_loop()
        yield cluster
"""


def test_a_cluster_of_the_sessions_loop_says_that_a_tests_loop_is_another(run: Run):
    result = run(MINE + "async def test_it(mine): await mine.generate([1, 2], SHORT)")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*WrongLoopError: the cluster belongs to another event loop*"])


def test_what_was_called_from_the_wrong_loop_spoils_nothing(run: Run):
    run(
        MINE
        + """
async def test_wrong(mine):
    with pytest.raises(RuntimeError):
        await mine.generate([1, 2], SHORT)

@pytest.mark.asyncio(loop_scope="session")
async def test_right(mine):
    assert len((await mine.generate([1, 2], SHORT)).token_ids) == 2

async def test_beside_it(mine, preble_cluster):
    assert len((await preble_cluster.agenerate([1, 2], SHORT)).token_ids) == 2

@pytest.mark.asyncio(loop_scope="session")
async def test_right_again(mine, preble_cluster):
    assert len((await mine.generate([1, 2], SHORT)).token_ids) == 2
    assert len((await preble_cluster.agenerate([1, 2], SHORT)).token_ids) == 2
"""
    ).assert_outcomes(passed=4)


def test_the_plugins_cluster_takes_calls_forwarded_from_any_loop(run: Run):
    run("""
import asyncio
from preble import SamplingParams

SHORT = SamplingParams(max_tokens=2)

async def test_forwarded(preble_cluster):
    loop = preble_cluster.run(running_loop())
    future = asyncio.run_coroutine_threadsafe(preble_cluster.cluster.generate([1, 2], SHORT), loop)
    assert len((await asyncio.wrap_future(future)).token_ids) == 2

async def test_forwarded_and_waited_for(preble_cluster):
    loop = preble_cluster.run(running_loop())
    future = asyncio.run_coroutine_threadsafe(preble_cluster.cluster.generate([1, 2], SHORT), loop)
    assert len(future.result(60).token_ids) == 2

def test_sync(preble_cluster):
    assert len(preble_cluster.generate([1, 2], SHORT).token_ids) == 2

async def running_loop():
    return asyncio.get_running_loop()
""").assert_outcomes(passed=3)
