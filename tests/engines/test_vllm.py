"""vLLM as a cluster runs it: in processes of its own, which end when their worker does."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from preble import ConfigurationError, PrebleCluster, SamplingParams, WorkerLostError
from tests.cluster.cases import alive, descendants, environment, eventually, links
from tests.engines.conformance import make_engine, prompt, require

LONG = SamplingParams(max_tokens=600, temperature=0.0, ignore_eos=True)
CORES = sorted(os.sched_getaffinity(0))[-1:]
SHORT = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)


def cluster(model: Path) -> PrebleCluster:
    case = require("vllm")
    return PrebleCluster(
        str(model),
        backend="vllm",
        workers=1,
        devices=[[0]],
        cpus=[CORES],
        engine_options=case.options,
        start_timeout=300.0,
    )


@pytest.mark.usefixtures("short_tmp")
async def test_a_cluster_generates_streams_and_loses_a_killed_worker_with_all_it_had(model: Path):
    async with cluster(model) as running:
        assert len(links()) == 2, "the cluster's sockets, and those of the worker's engine"
        first = await running.generate(prompt(1), SHORT)
        again = await running.generate(prompt(1), SHORT)
        assert first.token_ids == again.token_ids
        assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, 96)
        streamed = [token async for chunk in running.stream(prompt(1), SHORT) for token in chunk.token_ids]
        assert tuple(streamed) == first.token_ids
        task = asyncio.create_task(running.generate(prompt(2), LONG))
        await eventually(lambda: running.stats().workers[0].running == 1)
        (supervisor,) = running.worker_pids().values()
        processes = descendants(supervisor)
        assert len(processes) >= 2, "the worker, and vLLM's own process"
        found = environment(_worker(supervisor))  # vLLM's own have written their titles over theirs
        assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == ("0", "1")
        assert {frozenset(os.sched_getaffinity(pid)) for pid in processes} == {frozenset(CORES)}
        os.kill(_worker(supervisor), signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            await task
        await eventually(lambda: not any(map(alive, processes)))
    await eventually(lambda: not links())


async def test_a_dead_engine_ends_its_worker(model: Path):
    async with cluster(model) as running:
        await running.generate(prompt(1), SHORT)
        task = asyncio.create_task(running.generate(prompt(2), LONG))
        await eventually(lambda: running.stats().workers[0].running == 1)
        (supervisor,) = running.worker_pids().values()
        processes = descendants(supervisor)
        for child in descendants(_worker(supervisor)):
            os.kill(child, signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            await task
        await eventually(lambda: not any(map(alive, processes)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"no_such_option": 1}, "no_such_option"),
        ({"max_model_len": -5}, "max_model_len"),
        ({"kv_events_config": None}, "kv_events_config"),
        ({"mode": "elsewhere"}, "mode"),
    ],
)
async def test_a_wrong_option_is_named_in_vllm_s_words(model: Path, options: dict[str, Any], named: str):
    case = require("vllm")
    with pytest.raises(ConfigurationError, match=named):
        await make_engine(case, model, **options).start()


def _worker(supervisor: int) -> int:
    """The process below the supervisor."""
    (pid,) = (
        int(pid) for task in Path(f"/proc/{supervisor}/task").glob("*/children") for pid in task.read_text().split()
    )
    return pid
