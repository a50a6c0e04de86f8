"""Clusters that nobody closes: what is left of them, and who hears of it."""

from __future__ import annotations

import asyncio
import gc
import linecache
import logging
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from preble import ClosedError, PrebleCluster, SamplingParams
from tests.cluster.cases import GREEDY, SLOW, alive, descendants, eventually, links, prompt


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """What is forgotten goes at once, and does not wait for a collection of cycles."""
    gc.disable()
    yield
    gc.enable()


async def started(**options: object) -> PrebleCluster:
    cluster = PrebleCluster(backend="sim", workers=1, **options)
    await cluster.start()
    return cluster


async def test_a_cluster_that_is_made_again_ends_the_first_one_and_says_where_it_was_made(short_tmp, caplog):
    cluster = await started()
    pids = set(cluster.worker_pids().values())
    pids |= {below for pid in pids for below in descendants(pid)}
    assert len(pids) == 2
    with (
        pytest.warns(ResourceWarning, match=r"made at .*test_forgotten\.py:\d+ was never closed") as told,
        caplog.at_level(logging.WARNING, "preble.cluster"),
    ):
        cluster = await started()
    assert len(told) == 1
    assert "was never closed" in caplog.text
    line = int(str(told[0].message).partition(".py:")[2].partition(" ")[0])
    assert "PrebleCluster(" in linecache.getline(__file__, line)
    await eventually(lambda: not any(map(alive, pids)) and len(links()) == 1)
    assert (await cluster.generate(prompt(1), GREEDY)).token_ids
    await cluster.close()


async def test_nothing_is_said_of_clusters_that_are_in_use_or_closed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = await started(processes=False), await started(processes=False)
        await first.generate(prompt(1), GREEDY)
        await second.generate(prompt(1), GREEDY)
        await first.close()
        await second.close()
        never_started = PrebleCluster(backend="sim")
        del first, second, never_started


async def test_a_request_or_a_stream_keeps_its_cluster(caplog):
    cluster = await started(processes=False, engine_options=SLOW)
    stream = cluster.stream(prompt(1), SamplingParams(max_tokens=6, ignore_eos=True))
    request = asyncio.create_task(cluster.generate(prompt(2), GREEDY))
    many = cluster.generate_many([prompt(3)], GREEDY, as_completed=True)
    del cluster
    async with aclosing(stream), aclosing(many):
        assert sum([len(chunk.token_ids) async for chunk in stream]) == 6
        assert len((await request).token_ids) == 8
        assert caplog.text == ""
        with pytest.warns(ResourceWarning, match="never closed"):
            assert [index async for index, _ in many] == [0]


def test_a_cluster_whose_loop_has_ended_can_be_closed(short_tmp):
    cluster = asyncio.run(started())
    pids = list(cluster.worker_pids().values())
    asyncio.run(cluster.close())
    assert not links()
    asyncio.run(eventually(lambda: not any(map(alive, pids))))
    with pytest.raises(ClosedError):
        cluster.stats()


ENDS = {
    "by the end of the program": "asyncio.run(main())",
    "by the end of its last name": "asyncio.run(main()); del found[:]; gc.collect()",
    "by the end of its task": "asyncio.run(main(keep=False)); gc.collect()",
    "on a loop in a thread": """
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(main(), loop).result()
    """,
    "with another loop": "import uvloop; uvloop.run(main())",
    "by the end of its task on another loop": "import uvloop; uvloop.run(main(keep=False)); gc.collect()",
}


TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:  .*\n)*.*")
PREBLE_S = re.compile(r'/preble/[\w/]+\.py"|^preble\.', re.MULTILINE)
"""A frame or an error of ours; a folder above the checkout may have the name too."""


@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_forgets_its_cluster_ends_and_leaves_nothing(end: str, short_tmp):
    program = """
        import asyncio, gc, threading, time
        from preble import PrebleCluster
        found = []

        async def main(keep=True):
            cluster = PrebleCluster(backend="sim", workers=2)
            if keep:
                found.append(cluster)
            await cluster.start()
            await cluster.generate([1, 2, 3])
            print(*cluster.worker_pids().values())
    """
    code = textwrap.dedent(program) + textwrap.dedent(ENDS[end])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.count("the cluster made at <string>:7 was never closed") == 1
    for traceback in TRACEBACK.findall(done.stderr):  # asyncio has its own, if its loop ends before the process
        assert not PREBLE_S.search(traceback), traceback
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    asyncio.run(eventually(lambda: not any(map(alive, pids))))
    assert not links()
