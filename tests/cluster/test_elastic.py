"""Workers that come, are drained and go, tenants, and the decision log; over real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from pathlib import Path

import pytest

from preble import (
    ClosedError,
    ConfigurationError,
    InvalidRequestError,
    NamespaceNotServedError,
    NoWorkersError,
    PrebleCluster,
    SamplingParams,
    WorkerStartError,
)
from preble.replay import replay
from tests.cluster.cases import GREEDY, SLOW, alive, descendants, eventually, prompt, serving

LONG = SamplingParams(max_tokens=30, temperature=0.0)


async def test_a_worker_that_joins_serves() -> None:
    async with PrebleCluster(backend="sim", workers=1, policy="round-robin") as cluster:
        assert await cluster.add_worker() == "w1"
        outs = await cluster.generate_many([prompt(number) for number in range(4)], GREEDY)
        assert {out.worker for out in outs} == {"w0", "w1"}
        assert set(cluster.worker_pids()) == {"w0", "w1"}
        cluster.check()


async def test_a_worker_with_news_before_the_others_are_ready_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"folder": str(tmp_path)}
    async with PrebleCluster(backend="tests.early_engine:early", workers=2, engine_options=options) as cluster:
        outs = await cluster.generate_many([prompt(number) for number in range(4)], GREEDY)
        assert {out.worker for out in outs} == {"w0", "w1"}
        cluster.check()
    assert not caplog.records


async def test_a_drained_worker_finishes_what_it_has_and_gets_no_more() -> None:
    async with PrebleCluster(backend="sim", workers=2, policy="round-robin", engine_options=SLOW) as cluster:
        running = [asyncio.create_task(cluster.generate(prompt(number), LONG)) for number in range(4)]
        await eventually(lambda: cluster.stats().in_flight == 4)
        draining = asyncio.create_task(cluster.drain_worker("w0"))
        await asyncio.sleep(0)
        late = await cluster.generate_many([prompt(number) for number in range(10, 13)], GREEDY)
        assert {out.worker for out in late} == {"w1"}
        await draining
        assert cluster.scheduler.requests_on("w0") == 0
        outs = await asyncio.gather(*running)
        assert sorted(out.worker for out in outs) == ["w0", "w0", "w1", "w1"]
        assert cluster.stats().counters.retried == 0
        cluster.check()


async def test_a_drain_that_is_cancelled_leaves_it_drained() -> None:
    async with PrebleCluster(backend="sim", workers=2, engine_options=SLOW) as cluster:
        running = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await eventually(lambda: cluster.stats().in_flight == 1)
        (busy,) = (worker.worker for worker in cluster.stats().workers if worker.requests)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await cluster.drain_worker(busy)
        assert (await cluster.generate(prompt(1), GREEDY)).worker != busy
        assert (await running).worker == busy


async def test_a_removed_worker_is_gone_with_its_process() -> None:
    async with PrebleCluster(backend="sim", workers=2) as cluster:
        await cluster.generate(prompt(1), GREEDY)
        pid = cluster.worker_pids()["w0"]
        processes = {pid} | descendants(pid)
        await cluster.drain_worker("w0")
        await cluster.remove_worker("w0")
        assert not any(map(alive, processes))
        assert [worker.worker for worker in cluster.stats().workers] == ["w1"]
        assert (await cluster.generate(prompt(1), GREEDY)).worker == "w1"
        assert await cluster.add_worker() == "w2"
        cluster.check()


async def test_requests_of_a_worker_that_is_removed_go_on_elsewhere() -> None:
    async with PrebleCluster(backend="sim", workers=2, policy="round-robin", engine_options=SLOW) as cluster:
        expected = (await cluster.generate(prompt(1), LONG)).token_ids
        running = [asyncio.create_task(cluster.generate(prompt(1), LONG)) for _ in range(4)]
        await eventually(lambda: sum(worker.running for worker in cluster.stats().workers) == 4)
        await cluster.remove_worker("w0")
        outs = await asyncio.gather(*running)
        assert {out.token_ids for out in outs} == {expected}
        assert cluster.stats().counters.retried == 2
        assert [out.worker for out in outs] == ["w1"] * 4


async def test_the_last_worker_can_be_replaced() -> None:
    async with PrebleCluster(backend="sim", workers=1) as cluster:
        await cluster.remove_worker("w0")
        waits = asyncio.create_task(cluster.generate(prompt(1), GREEDY))
        await eventually(lambda: cluster.stats().waiting == 1)
        await cluster.add_worker()
        assert (await waits).worker == "w1"


async def test_without_a_worker_a_request_does_not_wait_for_ever() -> None:
    async with PrebleCluster(backend="sim", workers=1, worker_wait=0.0) as cluster:
        await cluster.remove_worker("w0")
        with pytest.raises(NoWorkersError):
            await cluster.generate(prompt(1), GREEDY)
        assert cluster.stats().counters.refused == 1


async def test_a_worker_that_died_is_forgotten_when_it_is_removed() -> None:
    async with PrebleCluster(backend="sim", workers=2) as cluster:
        os.kill(cluster.worker_pids()["w0"], signal.SIGKILL)
        await eventually(lambda: serving(cluster) == ["w1"])
        assert [worker.worker for worker in cluster.stats().workers] == ["w0", "w1"]
        await cluster.remove_worker("w0")
        assert [worker.worker for worker in cluster.stats().workers] == ["w1"]
        with pytest.raises(ConfigurationError, match="'w0' is not here"):
            await cluster.remove_worker("w0")
        cluster.check()


async def test_workers_that_are_not_here_are_named() -> None:
    async with PrebleCluster(backend="sim", workers=1) as cluster:
        with pytest.raises(ConfigurationError, match="'w7' is not here"):
            await cluster.drain_worker("w7")
        with pytest.raises(ConfigurationError, match="'w7' is not here"):
            await cluster.remove_worker("w7")


async def test_a_worker_that_does_not_start_leaves_nothing() -> None:
    async with PrebleCluster(backend="sim", workers=1) as cluster:
        before = descendants(os.getpid())
        cluster._start_timeout = 0.01
        with pytest.raises(WorkerStartError, match="not ready within"):
            await cluster.add_worker()
        await eventually(lambda: descendants(os.getpid()) == before)
        assert (await cluster.generate(prompt(1), GREEDY)).worker == "w0"
        cluster._start_timeout = 60.0
        assert await cluster.add_worker() == "w2"


async def test_closing_ends_a_start() -> None:
    cluster = PrebleCluster(backend="sim", workers=1)
    await cluster.start()
    adding = asyncio.create_task(cluster.add_worker())
    await eventually(lambda: "w1" in cluster.worker_pids())
    await cluster.close()
    with pytest.raises(ClosedError):
        await adding
    assert not descendants(os.getpid())


async def test_closing_ends_a_start_before_its_process_is_there() -> None:
    cluster = PrebleCluster(backend="sim", workers=1, start_timeout=3600.0)
    await cluster.start()
    adding = asyncio.create_task(cluster.add_worker())
    await asyncio.sleep(0)
    assert "w1" not in cluster.worker_pids()
    await cluster.close()
    with pytest.raises(ClosedError):
        async with asyncio.timeout(10):
            await adding
    await eventually(lambda: not descendants(os.getpid()))


async def test_tenants_never_hit_each_other_s_cache() -> None:
    async with PrebleCluster(backend="sim", workers=1) as cluster:

        async def cached(**options: str) -> int:
            out = await cluster.generate(prompt(1, 200), GREEDY, **options)
            assert out.usage.cached_tokens == cluster.explain(out.id).predicted_cached_tokens
            return out.usage.cached_tokens

        assert [await cached(tenant="a"), await cached(tenant="b"), await cached()] == [0, 0, 0]
        assert [await cached(namespace="a"), await cached(namespace="a", tenant="a")] == [0, 0]
        assert [await cached(tenant="a"), await cached(tenant="b"), await cached()] == [192, 192, 192]
        assert [await cached(namespace="a"), await cached(namespace="a", tenant="a")] == [192, 192]


async def test_a_worker_can_be_added_for_certain_namespaces() -> None:
    async with PrebleCluster(backend="sim", workers=1) as cluster:
        with pytest.raises(ConfigurationError, match="namespaces"):
            await cluster.add_worker(namespaces=[])
        assert list(cluster.worker_pids()) == ["w0"]
        own = await cluster.add_worker(namespaces=["x"])
        outs = await cluster.generate_many([prompt(number) for number in range(8)], GREEDY)
        assert {out.worker for out in outs} == {"w0"}
        await cluster.drain_worker("w0")
        assert (await cluster.generate(prompt(1), GREEDY, namespace="x")).worker == own
        with pytest.raises(NamespaceNotServedError, match="'y'"):
            await cluster.generate(prompt(1), GREEDY, namespace="y")
        cluster.check()


async def test_evictions_of_tenants_reach_the_scheduler() -> None:
    options = {"kv_tokens": 512, "context_limit": 400}
    async with PrebleCluster(backend="sim", workers=1, engine_options=options) as cluster:
        for number in range(8):
            out = await cluster.generate(prompt(1, 200), GREEDY, tenant=f"t{number % 4}")
            assert out.usage.cached_tokens == cluster.explain(out.id).predicted_cached_tokens == 0
        await cluster.drain()
        cluster.check()


async def test_an_adapter_reaches_the_engine_and_its_prefixes_are_its_own() -> None:
    async with PrebleCluster(backend="tests.adapter_engine:AdapterEngine", workers=1) as cluster:

        async def ask(**options: str) -> tuple[str, int]:
            out = await cluster.generate(prompt(1, 200), SamplingParams(max_tokens=1), **options)
            assert out.usage.cached_tokens == cluster.explain(out.id).predicted_cached_tokens
            return "".join(map(chr, out.token_ids)), out.usage.cached_tokens

        assert [await ask(lora="sql"), await ask(lora="chat"), await ask()] == [("s", 0), ("c", 0), ("-", 0)]
        assert await ask(namespace="sql") == ("-", 0), "the namespace of that name is another one"
        assert await ask(lora="sql", namespace="v2", tenant="t") == ("s", 0)
        assert [await ask(lora="sql"), await ask(lora="chat"), await ask()] == [("s", 192), ("c", 192), ("-", 192)]
        assert await ask(lora="sql", namespace="v2", tenant="t") == ("s", 192)
        with pytest.raises(InvalidRequestError, match=r"lora: the tests.* engine has no 'poet', but sql, chat"):
            await ask(lora="poet")
        cluster.check()


async def test_an_adapter_is_a_namespace_that_workers_may_serve() -> None:
    async with PrebleCluster(backend="sim", workers=1) as cluster:
        own = await cluster.add_worker(namespaces=["sql", "v2"])
        await cluster.drain_worker("w0")
        assert (await cluster.generate(prompt(1), GREEDY, lora="sql")).worker == own
        assert (await cluster.generate(prompt(1), GREEDY, lora="any", namespace="v2")).worker == own
        for options in ({"lora": "chat"}, {"lora": "sql", "namespace": "v3"}, {}):
            with pytest.raises(NamespaceNotServedError):
                await cluster.generate(prompt(1), GREEDY, **options)


@pytest.mark.parametrize("name", ["namespace", "tenant", "lora"])
@pytest.mark.parametrize("value", [7, "a" * 257, "a\0b", "\ud800"])
async def test_names_of_namespaces_are_bounded(name: str, value: object) -> None:
    async with PrebleCluster(backend="sim", workers=1) as cluster:
        with pytest.raises(InvalidRequestError, match=name):
            await cluster.generate(prompt(1), GREEDY, **{name: value})


async def test_a_decision_log_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "decisions"
    async with PrebleCluster(backend="sim", workers=2, decision_log=path) as cluster:
        await cluster.generate_many([prompt(number % 3) for number in range(20)], GREEDY, tenant="t")
        await cluster.remove_worker(await cluster.add_worker())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    comparison = replay(path.open("rb"))
    assert (comparison.requests, comparison.differing) == (20, 0)
    assert replay(path.open("rb"), "round-robin").differing > 0


@pytest.mark.parametrize("discipline", ["response-ratio", "fcfs"])
async def test_the_scheduler_knows_the_order_of_the_workers_queues(tmp_path: Path, discipline: str) -> None:
    path, options = tmp_path / "decisions", {"discipline": discipline}
    async with PrebleCluster(backend="sim", workers=1, decision_log=path, engine_options=options):
        pass
    (came,) = [line for line in path.read_text().splitlines() if '"add_worker"' in line]
    assert json.loads(came)["discipline"] == discipline


async def test_a_decision_log_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await PrebleCluster(backend="sim", decision_log=tmp_path / "none" / "log").start()
    assert not descendants(os.getpid())
