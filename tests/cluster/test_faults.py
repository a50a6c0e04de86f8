"""Workers that do not start, die, or are left alone; and what a cluster leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preble import (
    ClosedError,
    ConfigurationError,
    ModelError,
    NoWorkersError,
    PrebleCluster,
    SamplingParams,
    WorkerLostError,
    WorkerStartError,
)
from tests.cluster.cases import GREEDY, SLOW, alive, descendants, eventually, links, prompt, serving
from tests.policies import First, To

LONG = SamplingParams(max_tokens=60, temperature=0.0)


async def test_a_dead_worker_s_requests_go_on_elsewhere_without_a_gap() -> None:
    async with PrebleCluster(backend="sim", workers=2, policy=First(), engine_options=SLOW) as cluster:
        expected = (await cluster.generate(prompt(1), LONG)).token_ids
        streamed: list[int] = []
        workers: set[str] = set()
        async for chunk in cluster.stream(prompt(1), LONG):
            streamed.extend(chunk.token_ids)
            workers.add(chunk.worker)
            if len(streamed) == 10:
                os.kill(_worker_process(cluster, "w0"), signal.SIGKILL)
        assert tuple(streamed) == expected
        assert workers == {"w0", "w1"}
        assert cluster.stats().counters.retried == 1
        assert serving(cluster) == ["w1"]
        cluster.check()


async def test_a_worker_that_the_system_stops_finishes_what_it_has_and_others_go_elsewhere() -> None:
    async with PrebleCluster(backend="sim", workers=2, policy=First(), engine_options=SLOW) as cluster:
        running = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await eventually(lambda: cluster.stats().workers[0].running == 1)
        os.kill(_worker_process(cluster, "w0"), signal.SIGTERM)
        seen = set()
        while not running.done():
            seen.add((await cluster.generate(prompt(2), SamplingParams(max_tokens=2))).worker)
        assert "w1" in seen
        assert running.result().worker == "w0"
        await eventually(lambda: serving(cluster) == ["w1"])
        cluster.check()


async def test_what_outlasts_a_stopping_worker_goes_on_elsewhere() -> None:
    async with PrebleCluster(backend="sim", workers=2, policy=First(), engine_options={"hang_after": 1}) as cluster:
        task = asyncio.create_task(cluster.generate(prompt(1), GREEDY))
        await eventually(lambda: cluster.stats().workers[0].requests == 1)
        os.kill(_worker_process(cluster, "w0"), signal.SIGTERM)
        await eventually(lambda: cluster.stats().counters.retried == 1, patience=60.0)
        task.cancel()


async def test_the_last_worker_s_death_ends_requests_with_their_tokens() -> None:
    async with PrebleCluster(backend="sim", workers=1, engine_options=SLOW, worker_wait=0.0) as cluster:
        task = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await eventually(lambda: cluster.stats().workers[0].used_tokens > 70)
        os.kill(_worker_process(cluster, "w0"), signal.SIGKILL)
        with pytest.raises(WorkerLostError) as caught:
            await task
        assert caught.value.token_ids
        assert caught.value.worker == "w0"
        with pytest.raises(NoWorkersError):
            await cluster.generate(prompt(1), LONG)


async def test_a_request_that_kills_every_worker_stops_after_three() -> None:
    async with PrebleCluster(backend="sim", workers=5, engine_options={"crash_after": 1}) as cluster:
        with pytest.raises(WorkerLostError):
            await cluster.generate(prompt(1), GREEDY)
        assert len(serving(cluster)) == 2


async def test_requests_that_wait_are_moved_to_an_idle_worker() -> None:
    options = {**SLOW, "max_running": 1}
    async with PrebleCluster(
        backend="sim", workers=2, policy=To(*[0] * 10, 1, relieves=True), engine_options=options
    ) as cluster:
        prompts = [prompt(number, 2000) for number in range(10)]
        outs = await cluster.generate_many(prompts, SamplingParams(max_tokens=2))
        assert cluster.stats().counters.moved > 0
        assert {out.worker for out in outs} == {"w0", "w1"}
        cluster.check()


@pytest.mark.usefixtures("short_tmp")
async def test_a_wrong_engine_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match="kv_tokenz"):
        await PrebleCluster(backend="sim", engine_options={"kv_tokenz": 3}).start()
    assert not links()
    assert not descendants(os.getpid())


@pytest.mark.usefixtures("short_tmp")
async def test_a_start_that_fails_after_the_workers_are_up_leaves_nothing() -> None:
    with pytest.raises(ConfigurationError, match="no-such-cost"):
        await PrebleCluster(backend="sim", cost="no-such-cost").start()
    assert not links()
    assert not descendants(os.getpid())


async def test_closing_ends_a_start_that_has_just_begun() -> None:
    cluster = PrebleCluster(backend="sim", workers=1)
    starting = asyncio.create_task(cluster.start())
    await asyncio.sleep(0)
    await cluster.close()
    with pytest.raises(ClosedError):
        await starting
    assert not descendants(os.getpid())


async def test_an_engine_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no_such_module"):
        await PrebleCluster(backend="no_such_module:Engine").start()


async def test_a_path_that_is_no_model_is_named(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch engine needs torch")
    with pytest.raises(ModelError, match=r"config\.json"):
        await PrebleCluster(str(tmp_path), workers=1).start()
    with pytest.raises(ModelError, match="nowhere"):
        await PrebleCluster(str(tmp_path / "nowhere"), workers=1).start()


async def test_a_worker_that_is_not_ready_in_time_is_named() -> None:
    cluster = PrebleCluster(backend="sim", workers=2, engine_options={"start_delay": 60}, start_timeout=1.0)
    with pytest.raises(WorkerStartError, match="not ready within 1 s"):
        await cluster.start()
    assert not descendants(os.getpid())
    with pytest.raises(ClosedError):
        await cluster.start()


async def test_a_worker_that_dies_while_starting_shows_its_last_words() -> None:
    with pytest.raises(WorkerStartError, match="last words of the engine") as caught:
        await PrebleCluster(backend="tests.dying_engine:DyingEngine", workers=1).start()
    assert caught.value.worker == "w0"


@pytest.mark.usefixtures("short_tmp")
async def test_closing_ends_open_requests_and_leaves_nothing() -> None:
    async with PrebleCluster(backend="sim", workers=3, engine_options=SLOW) as cluster:
        processes = descendants(os.getpid())
        assert len(processes) == 6  # a supervisor and a worker each
        tasks = [asyncio.create_task(cluster.generate(prompt(number), LONG)) for number in range(6)]
        await eventually(lambda: cluster.stats().in_flight == 6)
    for task in tasks:
        with pytest.raises(ClosedError):
            await task
    assert not any(map(alive, processes))
    assert not links()


async def test_a_cancelled_close_kills() -> None:
    cluster = PrebleCluster(backend="sim", workers=2, engine_options={"hang_after": 1}, close_grace=60.0)
    await cluster.start()
    processes = descendants(os.getpid())
    task = asyncio.create_task(cluster.generate(prompt(1), LONG))
    await eventually(lambda: cluster.stats().in_flight == 1)
    closing = asyncio.create_task(cluster.close())
    await asyncio.sleep(0.05)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(ClosedError):
        await task
    await eventually(lambda: not any(map(alive, processes)))


def test_nothing_outlives_a_caller_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "caller.py"
    script.write_text(
        "import asyncio\n"
        "from preble import PrebleCluster\n"
        "async def main():\n"
        "    async with PrebleCluster(backend='sim', workers=2):\n"
        "        print('up', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"up\n"
        processes = descendants(caller.pid)
        assert len(processes) == 4
        caller.kill()
    for _ in range(500):
        if not any(map(alive, processes)):
            break
        time.sleep(0.01)
    assert not any(map(alive, processes))


def _worker_process(cluster: PrebleCluster, worker: str) -> int:
    """The worker below its supervisor."""
    (pid,) = descendants(cluster.worker_pids()[worker])
    return pid
