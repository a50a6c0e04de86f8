"""Clusters whose engines run in the caller's event loop: `processes=False`."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from preble import (
    ClosedError,
    ConfigurationError,
    EngineError,
    ModelError,
    PrebleCluster,
    SamplingParams,
    WorkerStartError,
)
from preble.backends import EngineInfo, Load
from preble.backends.sim import SimEngine
from preble.errors import EngineDeadError, WorkerError
from preble.testing import VirtualTimeLoop, make_model
from tests.cluster.cases import GREEDY, descendants, eventually, prompt, serving

LONG = SamplingParams(max_tokens=60, temperature=0.0)
REAL = {"time_scale": 1.0}

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the torch engine needs torch")


class Breaking:
    """A simulated engine that breaks its worker on demand. `made` has all of one test, in order."""

    made: list[Breaking]

    def __init__(self, *, slow_start: float = 0.0, model: str | None = None, **options: Any) -> None:
        self.broken = self.closed = False
        self._slow_start = slow_start
        self._sim = SimEngine(model=model, **options)
        self.generate, self.abort = self._sim.generate, self._sim.abort
        self.cache_events, self.reset_cache = self._sim.cache_events, self._sim.reset_cache
        self.made.append(self)

    async def start(self) -> EngineInfo:
        await asyncio.sleep(self._slow_start)
        return await self._sim.start()

    def load(self) -> Load:
        if self.broken:
            raise EngineDeadError("out of order")
        return self._sim.load()

    async def close(self) -> None:
        self.closed = True
        await self._sim.close()


@pytest.fixture(autouse=True)
def made() -> list[Breaking]:
    Breaking.made = []
    return Breaking.made


def run(main: Any) -> Any:
    """Run a coroutine in virtual time, and see that it leaves no task."""

    async def alone() -> Any:
        result = await main
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(alone())


@needs_torch
async def test_a_model_in_this_process_gives_text(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", hidden=64, layers=2, intermediate=128, vocab=512)
    async with PrebleCluster(model, workers=2, processes=False) as cluster:
        first = await cluster.generate("def hello(name):\n    return name\n" * 4, GREEDY)
        again = [chunk async for chunk in cluster.stream("def hello(name):\n    return name\n" * 4, GREEDY)]
        assert first.text
        assert "".join(chunk.text for chunk in again) == first.text
        assert again[-1].usage.cached_tokens > 0
        assert not descendants(os.getpid())
        cluster.check()


def test_workers_join_and_go_and_forget_their_caches() -> None:
    async def main() -> None:
        async with PrebleCluster(backend="sim", workers=1, policy="round-robin", processes=False) as cluster:
            assert await cluster.add_worker() == "w1"
            outs = await cluster.generate_many([prompt(number % 2) for number in range(8)], GREEDY, concurrency=1)
            assert {out.worker for out in outs} == {"w0", "w1"}
            assert outs[-1].usage.cached_tokens == 48
            await cluster.reset_cache()
            assert (await cluster.generate(prompt(0), GREEDY)).usage.cached_tokens == 0
            await cluster.remove_worker("w0")
            assert {(await cluster.generate(prompt(0), GREEDY)).worker for _ in range(3)} == {"w1"}
            assert await cluster.add_worker() == "w2"
            assert cluster.worker_pids() == {}
            cluster.check()

    run(main())


def test_requests_of_a_worker_that_breaks_go_on_elsewhere_without_a_gap(made: list[Breaking]) -> None:
    async def main() -> None:
        async with PrebleCluster(
            backend=Breaking, workers=2, policy="round-robin", engine_options=REAL, processes=False
        ) as cluster:
            expected = (await cluster.generate(prompt(1), LONG)).token_ids
            streamed: list[int] = []
            workers = []
            async for chunk in cluster.stream(prompt(1), LONG):
                streamed.extend(chunk.token_ids)
                workers.append(chunk.worker)
                made[1].broken = len(streamed) >= 10
            assert (tuple(streamed), list(dict.fromkeys(workers))) == (expected, ["w1", "w0"])
            await eventually(lambda: serving(cluster) == ["w0"])
            assert [engine.closed for engine in made] == [False, True]
            cluster.check()
        assert [engine.closed for engine in made] == [True, True]

    run(main())


def test_logprobs_of_a_prompt_are_neither_lost_nor_doubled_when_its_worker_breaks(made: list[Breaking]) -> None:
    async def main() -> None:
        async with PrebleCluster(
            backend=Breaking, workers=2, policy="round-robin", engine_options=REAL, processes=False
        ) as cluster:
            sampling = SamplingParams(max_tokens=40, temperature=0.0, prompt_logprobs=1)
            expected = await cluster.generate(prompt(1), sampling)
            chunks, came = [], 0
            async for chunk in cluster.stream(prompt(1), sampling):
                chunks.append(chunk)
                came += len(chunk.token_ids)
                made[1].broken = came >= 10
            assert {chunk.worker for chunk in chunks} == {"w0", "w1"}
            told = [chunk.prompt_logprobs for chunk in chunks if chunk.prompt_logprobs is not None]
            assert told == [expected.prompt_logprobs]

    run(main())


def test_the_last_worker_s_break_is_told(made: list[Breaking]) -> None:
    async def main() -> None:
        async with PrebleCluster(backend=Breaking, workers=1, engine_options=REAL, processes=False) as cluster:
            task = asyncio.create_task(cluster.generate(prompt(1), LONG))
            await asyncio.sleep(1.0)
            made[0].broken = True
            with pytest.raises(WorkerError, match="out of order"):
                await task
            await eventually(lambda: serving(cluster) == [])

    run(main())


@pytest.mark.parametrize(
    ("backend", "options", "error", "message"),
    [
        ("sim", {"no_such_option": 1}, ConfigurationError, "no_such_option"),
        (Breaking, {"no_such_option": 1}, ConfigurationError, "no_such_option"),
        ("sim", {"start_delay": 1e6}, WorkerStartError, "not ready within 120 s"),
        (Breaking, {"slow_start": 1e6}, WorkerStartError, "not ready within 120 s"),
        pytest.param("torch", {}, ModelError, "nowhere", marks=needs_torch),
    ],
)
def test_an_engine_that_does_not_start_leaves_nothing(
    backend: Any, options: dict[str, Any], error: type[Exception], message: str, made: list[Breaking]
) -> None:
    model = "/nowhere" if backend == "torch" else None
    with pytest.raises(error, match=message):
        run(PrebleCluster(model, backend=backend, engine_options=options, processes=False).start())
    assert all(engine.closed for engine in made)


@pytest.mark.parametrize("ready", [0, 1], ids=["the first ones", "one more"])
@pytest.mark.parametrize("close", [True, False], ids=["by closing", "by cancelling"])
def test_giving_up_a_start_leaves_nothing(ready: int, close: bool, made: list[Breaking]) -> None:
    async def main() -> None:
        cluster = PrebleCluster(backend=Breaking, workers=1, engine_options={"slow_start": 60.0}, processes=False)
        if ready:
            await cluster.start()
        starting = asyncio.create_task(cluster.add_worker() if ready else cluster.start())
        await asyncio.sleep(1.0)
        if close:
            await cluster.close()
        else:
            starting.cancel()
        with pytest.raises(ClosedError if close else asyncio.CancelledError):
            await starting
        assert made[ready].closed
        await cluster.close()
        assert asyncio.get_running_loop().time() == 1.0 + 60.0 * ready
        assert all(engine.closed for engine in made)

    run(main())


def test_an_engine_that_hangs_is_given_up_when_the_cluster_is_closed() -> None:
    async def main() -> float:
        cluster = PrebleCluster(backend="sim", workers=2, engine_options={"hang_after": 1}, processes=False)
        await cluster.start()
        task = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await asyncio.sleep(1.0)
        await cluster.close()
        with pytest.raises(ClosedError):
            await task
        return asyncio.get_running_loop().time()

    assert run(main()) < 10


def test_a_request_that_an_engine_refuses_fails_alone() -> None:
    async def main() -> None:
        options = {"fail_prompt_token": 5}
        async with PrebleCluster(backend="sim", workers=1, engine_options=options, processes=False) as cluster:
            with pytest.raises(EngineError, match="told to fail"):
                await cluster.generate([5, 6, 7], GREEDY)
            assert (await cluster.generate([6, 7], GREEDY)).token_ids

    run(main())


def test_what_only_processes_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="devices, cpus"):
        PrebleCluster(backend="sim", workers=1, cpus=[[0]], processes=False)
    with pytest.raises(ConfigurationError, match="backend: a process needs a name"):
        PrebleCluster(backend=SimEngine)

    async def main() -> None:
        async with PrebleCluster(backend="sim", workers=1, processes=False) as cluster:
            for options in ({"cpus": [0]}, {"devices": [0]}):
                with pytest.raises(ConfigurationError, match="devices, cpus"):
                    await cluster.add_worker(**options)
            with pytest.raises(ConfigurationError, match="url"):
                await cluster.add_worker("http://a")
            assert serving(cluster) == ["w0"]

    run(main())
