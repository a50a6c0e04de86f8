"""What a worker is bound to: as described, checked by name, and as its process really has it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from preble import ConfigurationError, PrebleCluster
from preble.testing import make_model
from preble.workers.binding import Binding, bindings, check_apart
from tests.cluster.cases import GREEDY, descendants, environment, eventually, prompt

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]


@pytest.fixture(autouse=True)
def _all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def worker_of(supervisor: int) -> int:
    """The worker's process, below its supervisor."""
    (pid,) = (
        pid for pid in descendants(supervisor) if b"preble.workers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


def environments(cluster: PrebleCluster) -> dict[str, dict[str, str]]:
    return {name: environment(worker_of(pid)) for name, pid in cluster.worker_pids().items()}


async def test_processes_see_their_devices_threads_and_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-f00,7")
    cores = [CORES[:1], CORES[-1:]]
    cluster = PrebleCluster(backend="sim", workers=2, devices=[[0, 1], [2]], cpus=cores, threads=3)
    async with cluster:
        for (name, found), devices, own in zip(environments(cluster).items(), ("4,GPU-f00", "7"), cores, strict=True):
            assert found["CUDA_VISIBLE_DEVICES"] == devices
            assert {found[variable] for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {"3"}
            assert os.sched_getaffinity(worker_of(cluster.worker_pids()[name])) == set(own)
        assert len((await cluster.generate(prompt(1), GREEDY)).token_ids) == 8


async def test_without_bindings_a_process_has_what_the_caller_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    async with PrebleCluster(backend="sim", workers=1, threads=0) as cluster:
        (found,) = environments(cluster).values()
        assert found["OMP_NUM_THREADS"] == "7"
        assert "CUDA_VISIBLE_DEVICES" not in found
        assert os.sched_getaffinity(worker_of(*cluster.worker_pids().values())) == set(CORES)


async def test_a_worker_that_joins_takes_devices_that_are_free():
    async with PrebleCluster(backend="sim", workers=2, devices=[[0], [1]]) as cluster:
        for devices in (None, [1]):
            with pytest.raises(ConfigurationError, match="devices: "):
                await cluster.add_worker(devices=devices)
        joined = await cluster.add_worker(devices=[2], cpus=CORES[:1])
        await cluster.remove_worker("w1")
        again = await cluster.add_worker(devices=[1])
        seen = {name: found["CUDA_VISIBLE_DEVICES"] for name, found in environments(cluster).items()}
        assert seen == {"w0": "0", joined: "2", again: "1"}


async def test_workers_that_join_at_once_do_not_share_a_device():
    async with PrebleCluster(backend="sim", workers=1, devices=[[0]]) as cluster:
        adding = (cluster.add_worker(devices=[1]) for _ in range(2))
        joined, refused = await asyncio.gather(*adding, return_exceptions=True)
        assert (joined, type(refused)) == ("w1", ConfigurationError)
        assert list(cluster.worker_pids()) == ["w0", "w1"]


async def test_a_device_is_free_when_the_process_that_had_it_has_ended():
    async with PrebleCluster(backend="sim", workers=2, devices=[[0], [1]]) as cluster:
        removing = asyncio.create_task(cluster.remove_worker("w1"))
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="devices: 1 is given twice"):
            await cluster.add_worker(devices=[1])
        await removing
        assert await cluster.add_worker(devices=[1])


async def test_a_device_of_a_worker_that_did_not_start_is_free(monkeypatch: pytest.MonkeyPatch):
    async with PrebleCluster(backend="sim", workers=1, devices=[[0]]) as cluster:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nothing/here")
            with pytest.raises(OSError, match="No such file"):
                await cluster.add_worker(devices=[1])
        assert await cluster.add_worker(devices=[1])


async def test_the_embedded_engine_computes_on_its_device_or_says_that_there_is_none(tmp_path: Path):
    torch = pytest.importorskip("torch")
    model = make_model(tmp_path, hidden=64, layers=1, heads=2, kv_heads=1, intermediate=64, vocab=512)
    on_cpu = PrebleCluster(
        model, workers=2, devices=[[0], [0]], share_devices=True, threads=2, engine_options={"device": "cpu"}
    )
    async with on_cpu as cluster:
        assert [found["CUDA_VISIBLE_DEVICES"] for found in environments(cluster).values()] == ["0", "0"]
        assert (await cluster.generate(list(range(20)), GREEDY)).usage.output_tokens > 0
    if not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match="no CUDA device"):
            await PrebleCluster(model, workers=1, devices=[[0]]).start()
        await eventually(lambda: not descendants(os.getpid()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"devices": [[0]]}, "devices: must be a list for each of 2 workers"),
        ({"devices": "01"}, "devices: must be a list for each"),
        ({"devices": [[0], 1]}, "devices: entry 1: must be a list of GPUs"),
        ({"devices": [[0], []]}, "devices: entry 1: must be a list of GPUs"),
        ({"devices": [[0], [-1]]}, "devices: entry 1: must be numbers"),
        ({"devices": [[0], ["cuda:1"]]}, "devices: entry 1: must be numbers"),
        ({"devices": [[0], [True]]}, "devices: entry 1: must be numbers"),
        ({"devices": [[0], [0]]}, "devices: 0 is given twice"),
        ({"devices": [[0, 0], [1]]}, "devices: 0 is given twice"),
        ({"cpus": [[CORES[0]]]}, "cpus: must be a list for each of 2 workers"),
        ({"cpus": [CORES[:1], [100_000]]}, "cpus: entry 1: must be a list of cores among"),
        ({"cpus": [CORES[:1], []]}, "cpus: entry 1"),
        ({"backend": "openai", "workers": 1, "devices": [[0]]}, "are for clusters that start workers"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        PrebleCluster(**{"backend": "sim", "workers": 2} | arguments)


def test_a_device_beyond_those_that_are_visible_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert [each.devices for each in bindings(2, [[1], ["MIG-1"]], None, 0)] == [("5",), ("MIG-1",)]
    with pytest.raises(ConfigurationError, match="entry 1: 2 is beyond those of CUDA_VISIBLE_DEVICES=3, 5"):
        bindings(2, [[0], [2]], None, 0)


def test_devices_are_told_apart_over_all_workers():
    check_apart([Binding(("0", "1")), Binding(), Binding(("2",))])
    with pytest.raises(ConfigurationError, match="1 is given twice"):
        check_apart([Binding(("0", "1")), Binding(("2", "1"))])


@pytest.mark.parametrize(
    ("backend", "options", "count", "message"),
    [
        ("torch", {}, 2, "devices: the torch engine computes on one device, not on 2"),
        ("vllm", {"tensor_parallel_size": 4}, 2, "devices: 2 of them, and tensor_parallel_size=4"),
        ("vllm", {"pipeline_parallel_size": 2}, 3, "devices: 3 of them, and tensor_parallel_size=1"),
        ("sglang", {"tp_size": 2, "pp_size": 2}, 2, "devices: 2 of them, and tp_size=2, pp_size=2"),
    ],
)
def test_options_for_another_number_of_devices_are_refused(
    backend: str, options: dict[str, Any], count: int, message: str
):
    with pytest.raises(ConfigurationError, match=message):
        PrebleCluster(".", backend=backend, workers=1, devices=[list(range(count))], engine_options=options)
