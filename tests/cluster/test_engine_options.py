"""Options of the engines: the same for all, or a mapping for each worker; and faults of one worker."""

from __future__ import annotations

from typing import Any

import pytest

from preble import ConfigurationError, PrebleCluster
from preble.backends.sim import SimEngine
from tests.cluster.cases import GREEDY, eventually, prompt
from tests.policies import First


def sizes(cluster: PrebleCluster) -> dict[str, int]:
    return {worker.worker: worker.kv_tokens for worker in cluster.stats().workers}


def wrapped(**options: Any) -> SimEngine:
    return SimEngine(**options)


async def test_each_worker_may_have_options_of_its_own():
    options = [{"kv_tokens": 1600}, {"kv_tokens": 3200}]
    async with PrebleCluster(backend="sim", processes=False, engine_options=options) as cluster:
        assert sizes(cluster) == {"w0": 1600, "w1": 3200}
        with pytest.raises(ConfigurationError, match="engine_options: the other workers have their own"):
            await cluster.add_worker()
        assert await cluster.add_worker(engine_options={"kv_tokens": 4800}) == "w2"
        assert sizes(cluster)["w2"] == 4800


async def test_one_more_worker_may_differ_from_those_that_are_alike():
    async with PrebleCluster(backend="sim", workers=1, processes=False, engine_options={"kv_tokens": 1600}) as cluster:
        await cluster.add_worker()
        await cluster.add_worker(engine_options={})
        assert sizes(cluster) == {"w0": 1600, "w1": 1600, "w2": 200_000}
        for wrong in ({"nonsense": 1}, [{}], {1: 2}):
            with pytest.raises(ConfigurationError):
                await cluster.add_worker(engine_options=wrong)


@pytest.mark.parametrize(
    ("backend", "processes"), [("sim", True), ("sim", False), (wrapped, False)], ids=["process", "in loop", "wrapped"]
)
async def test_the_crash_of_one_worker_is_its_loss_and_nothing_else(backend: Any, processes: bool):
    faults = [{"crash_after": 2}, {}]
    async with PrebleCluster(backend=backend, policy=First(), processes=processes, engine_options=faults) as cluster:
        outs = [await cluster.generate(prompt(1), GREEDY) for _ in range(3)]
        assert [out.worker for out in outs] == ["w0", "w1", "w1"]
        assert len({out.token_ids for out in outs}) == 1
        await eventually(lambda: cluster.stats().in_flight == 0)
        cluster.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([{}], "1 entries for 2 workers"),
        ([{}, {}, {}], "3 entries for 2 workers"),
        ([{}, None], "entry 1: must be a mapping, not None"),
        ([{"seed": 1}, {2: 3}], "entry 1: its keys must be names"),
        ("seed", "must be a mapping, or a list"),
        (7, "must be a mapping, or a list"),
    ],
)
def test_wrong_options_are_refused_by_name_when_the_cluster_is_made(options: Any, message: str):
    with pytest.raises(ConfigurationError, match=f"engine_options: {message}"):
        PrebleCluster(backend="sim", engine_options=options)


def test_servers_have_one_mapping():
    with pytest.raises(ConfigurationError, match="engine_options: must be a mapping"):
        PrebleCluster.connect(["http://127.0.0.1:1"], engine_options=[{}])
