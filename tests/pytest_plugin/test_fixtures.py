"""What the fixtures give, in tests with every kind of event loop, and in several processes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.pytest_plugin.conftest import Run

EVERY_KIND = """
import asyncio
import pytest
from preble import SamplingParams

SHORT = SamplingParams(max_tokens=4, temperature=0.0)
PROMPT = [{"role": "user", "content": "x" * 1500}]

def test_sync(preble_cluster):
    assert len(preble_cluster.generate("hello", SHORT).token_ids) == 4
    assert sum(len(chunk.token_ids) for chunk in preble_cluster.stream("hello", SHORT)) == 4
    assert len(preble_cluster.generate_many(["a", "b"], SHORT)) == 2

async def test_twins(preble_cluster):
    assert len((await preble_cluster.agenerate("hello", SHORT)).token_ids) == 4
    assert sum([len(chunk.token_ids) async for chunk in preble_cluster.astream("hello", SHORT)]) == 4

async def test_waiting_inside_a_loop(preble_cluster):
    assert len(preble_cluster.generate("hello", SHORT).token_ids) == 4

def test_a_loop_of_ones_own(preble_cluster):
    async def both():
        return await asyncio.gather(*(preble_cluster.agenerate("hello", SHORT) for _ in range(2)))
    one, two = asyncio.run(both())
    assert one.token_ids == two.token_ids

def test_what_was_cached(preble_cluster):
    assert preble_cluster.hit_ratio() == 0.0
    preble_cluster.generate(PROMPT, SHORT)
    before = preble_cluster.hit_ratio()
    out = preble_cluster.generate(PROMPT, SHORT)
    assert preble_cluster.receipt(out).cached_tokens >= 1000
    assert preble_cluster.receipt(out.id) == preble_cluster.receipt(out)
    assert before < 0.1 and 0.4 < preble_cluster.hit_ratio() < 0.6

def test_the_count_begins_again(preble_cluster):
    assert preble_cluster.hit_ratio() == 0.0
"""


@pytest.mark.parametrize("scope", ["function", "session"])
def test_tests_of_every_kind_share_the_cluster(run: Run, scope: str):
    run(EVERY_KIND, scope=scope).assert_outcomes(passed=6)


def test_each_process_of_xdist_has_its_own(run: Run):
    run(EVERY_KIND, "-n", "2", "--dist", "each").assert_outcomes(passed=12)


def test_a_cancelled_or_broken_off_stream_ends_its_request(run: Run):
    run("""
import asyncio

async def test_break(preble_cluster):
    async for chunk in preble_cluster.astream([{"role": "user", "content": "?"}]):
        break

async def test_cancel(preble_llm):
    preble_llm.reply("so far", float("inf"))
    task = asyncio.ensure_future(preble_llm.cluster.agenerate("?"))
    await asyncio.to_thread(preble_llm.cluster.wait, lambda: preble_llm.calls, "it is asked")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()

def test_nothing_is_in_flight(preble_cluster):
    assert preble_cluster.stats().in_flight == 0
""").assert_outcomes(passed=3)


def test_openai_clients(run: Run):
    run("""
import pytest
openai = pytest.importorskip("openai")
USER = [{"role": "user", "content": "x" * 1500}]

def test_sync(preble_cluster, preble_openai):
    for _ in range(2):
        answer = preble_openai.chat.completions.create(model="any", messages=USER, max_tokens=4)
    assert preble_cluster.receipt(answer).cached_tokens >= 1000
    assert answer.usage.completion_tokens == 4

async def test_async(preble_async_openai):
    stream = await preble_async_openai.chat.completions.create(model="any", messages=USER, max_tokens=4, stream=True)
    async with stream:
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"

def test_scripted(preble_llm, preble_openai):
    preble_llm.reply("Oslo", when="capital")
    answer = preble_openai.chat.completions.create(model="any", messages=[{"role": "user", "content": "the capital?"}])
    assert answer.choices[0].message.content == "Oslo"
    assert preble_llm.calls[0].text == "the capital?"
    assert preble_llm.cluster.receipt(answer).worker in ("w0", "w1")
""").assert_outcomes(passed=3)


def test_options_say_what_the_cluster_is(run: Run):
    run(
        """
def test_it(preble_cluster, preble_cluster_factory):
    assert preble_cluster.workers == ["w0", "w1", "w2"]
    assert preble_cluster.cluster.worker_pids() == {}
    again = preble_cluster_factory()
    assert again.generate([5, 6, 7]).token_ids == preble_cluster.generate([5, 6, 7]).token_ids
    other = preble_cluster_factory(seed=8, workers=1)
    assert other.workers == ["w0"]
    assert other.generate([5, 6, 7]).token_ids != again.generate([5, 6, 7]).token_ids
""",
        "--preble-workers=3",
        "--preble-seed=7",
    ).assert_outcomes(passed=1)


def test_workers_may_be_processes(run: Run):
    run(
        """
from preble import SamplingParams

def test_it(preble_cluster, preble_chaos):
    assert len(preble_cluster.cluster.worker_pids()) == 2
    killed = preble_chaos.kill()
    assert killed not in preble_cluster.workers
    assert preble_cluster.generate("hello", SamplingParams(max_tokens=2)).worker != killed

def test_again(preble_cluster):
    assert len(preble_cluster.workers) == 2
""",
        "--preble-processes",
    ).assert_outcomes(passed=2)


def test_nothing_of_the_package_is_imported_before_a_fixture_is_used(run: Run):
    run("""
import sys

def test_before():
    ours = {name for name in sys.modules if name.startswith("preble")}
    assert ours == {"preble", "preble.pytest_plugin"}
    assert not sys.modules.keys() & {"msgspec", "numpy", "zmq", "openai", "starlette", "uvicorn"}
""").assert_outcomes(passed=1)


def test_pytest_is_told_of_the_plugin():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"preble": "preble.pytest_plugin"}
