"""What is special to SGLang: its processes, signals and files, in workers of a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from preble import ConfigurationError, InvalidRequestError, PrebleCluster, SamplingParams, WorkerLostError
from tests.cluster.cases import alive, descendants, eventually
from tests.engines.conformance import prompt, require

GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
LONG = SamplingParams(max_tokens=700, temperature=0.0, ignore_eos=True)
PATIENT = 300.0
CORES = sorted(os.sched_getaffinity(0))[-1:]


def cluster_of(model: Path, **options: object) -> PrebleCluster:
    case = require("sglang")
    return PrebleCluster(
        model,
        backend="sglang",
        workers=1,
        devices=[[0]],
        cpus=[CORES],
        engine_options=case.options | options,
        start_timeout=PATIENT,
    )


@pytest.fixture
async def clean(short_tmp: str) -> AsyncIterator[None]:
    """Whatever the test did, no process and no file is left of it."""
    processes = descendants(os.getpid())
    yield
    await eventually(lambda: not [pid for pid in descendants(os.getpid()) - processes if alive(pid)])
    assert [name for name in os.listdir(short_tmp) if name.startswith(("preble", "tmp"))] == []


@pytest.mark.usefixtures("clean")
async def test_a_cluster_generates_streams_aborts_and_closes(model: Path):
    async with cluster_of(model) as cluster:
        mapped = [line for pid in descendants(os.getpid()) for line in maps(pid) if "/sglang_loads_" in line]
        assert mapped
        engines = [pid for pid in descendants(os.getpid()) if "sglang::" in command(pid)]
        assert engines
        assert {frozenset(os.sched_getaffinity(pid)) for pid in engines} == {frozenset(CORES)}
        whole = await cluster.generate(prompt(1), GREEDY)
        again = await cluster.generate(prompt(1), GREEDY)
        assert (whole.usage.cached_tokens, again.usage.cached_tokens) == (0, 96)
        assert whole.token_ids == again.token_ids
        streamed = [chunk async for chunk in cluster.stream(prompt(1), GREEDY)]
        assert [token for chunk in streamed for token in chunk.token_ids] == list(whole.token_ids)
        text = (await cluster.generate("def hello():", GREEDY)).text
        stopped = await cluster.generate("def hello():", SamplingParams(temperature=0.0, stop=(text[3:6],)))
        assert stopped.text == text[: text.index(text[3:6])]
        async with aclosing(cluster.stream(prompt(2), LONG)) as chunks:
            await anext(chunks)
        await eventually(lambda: cluster.stats().workers[0].running == 0)
        with pytest.raises(InvalidRequestError, match="seed"):
            await cluster.generate(prompt(1), SamplingParams(seed=1))
        waiting = [asyncio.create_task(cluster.generate(prompt(number), LONG)) for number in range(12)]
        await eventually(lambda: cluster.stats().workers[0].running > 0)
    assert all(isinstance(error, Exception) for error in await asyncio.gather(*waiting, return_exceptions=True))


@pytest.mark.usefixtures("clean")
async def test_sigterm_lets_requests_finish_and_a_dead_scheduler_ends_the_worker(model: Path):
    """SGLang would drain in rounds of five seconds, and then kill itself."""
    async with cluster_of(model) as cluster:
        (supervisor,) = [pid for pid in descendants(os.getpid()) if "supervisor.py" in command(pid)]
        async with aclosing(cluster.stream(prompt(1), SamplingParams(max_tokens=100, ignore_eos=True))) as chunks:
            await anext(chunks)
            os.kill(supervisor, signal.SIGTERM)
            last = [chunk async for chunk in chunks][-1]
        assert (last.finish_reason, last.usage and last.usage.output_tokens) == ("length", 100)
        await eventually(lambda: not alive(supervisor) and not cluster.worker_pids())
        await cluster.add_worker(devices=[0])
        (scheduler,) = [pid for pid in descendants(os.getpid()) if "sglang::scheduler" in command(pid)]
        running = asyncio.create_task(cluster.generate(prompt(2), LONG))
        await eventually(lambda: cluster.stats().in_flight == 1)
        os.kill(scheduler, signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            await running


@pytest.mark.usefixtures("clean")
async def test_an_option_that_sglang_does_not_know_is_a_configuration_error_in_its_words(model: Path):
    with pytest.raises(ConfigurationError, match="no_such_option"):
        await cluster_of(model, no_such_option=1).start()


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def maps(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/maps").read_text().splitlines()
    except FileNotFoundError:
        return []
