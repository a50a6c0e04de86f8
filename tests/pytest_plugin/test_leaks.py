"""Tests that leave something behind fail, and the next ones do not."""

from __future__ import annotations

from tests.pytest_plugin.conftest import Run

SOON = """
from preble.pytest_plugin import facade, resources

facade.IDLE_WITHIN = resources._GONE_WITHIN = 0.2
KEPT = []
"""


def test_requests_left_in_flight_fail_the_test_that_left_them(run: Run):
    result = run(
        SOON
        + """
import pytest
from preble import SamplingParams

LONG = SamplingParams(max_tokens=100_000, ignore_eos=True)

@pytest.mark.parametrize("streams", [2])
def test_leaks(preble_cluster, streams):
    for _ in range(streams):
        stream = preble_cluster.stream("a long story", LONG)
        next(stream)
        KEPT.append(stream)

def test_leaks_too(preble_llm):
    preble_llm.reply("so far", float("inf"))
    stream = preble_llm.cluster.stream("?")
    next(stream)
    KEPT.append(stream)

def test_next(preble_cluster):
    preble_cluster.generate([1, 2])
"""
    )
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_leaks[[]2[]]*",
            "*the test has left 2 requests in flight*",
            "*ERROR at teardown of test_leaks_too*",
            "*the test has left 1 requests in flight*",
        ]
    )


def test_what_a_cluster_leaves_with_the_system_fails_the_test(run: Run):
    result = run(
        SOON
        + """
import os, subprocess, tempfile
import pytest
from preble import PrebleCluster

LEAKS = {
    "pipe": os.pipe,
    "folder": lambda: tempfile.mkdtemp(prefix="preble-"),
    "child": lambda: subprocess.Popen(["sleep", "99"]),
}

@pytest.mark.parametrize("leak", LEAKS)
def test_leaks(preble_cluster_factory, monkeypatch, leak):
    start = PrebleCluster.start
    async def leaking(self):
        KEPT.append(LEAKS[leak]())
        await start(self)
    monkeypatch.setattr(PrebleCluster, "start", leaking)
    preble_cluster_factory()

def test_clean_up():
    _, folder, child = KEPT
    os.rmdir(folder)
    child.kill()
    child.wait()

def test_next(preble_cluster_factory):
    preble_cluster_factory().generate([1, 2])
"""
    )
    result.assert_outcomes(passed=5, errors=3)
    for leak, what in (("pipe", "descriptor"), ("folder", "file"), ("child", "process")):
        result.stdout.fnmatch_lines([f"*ERROR at teardown of test_leaks[[]{leak}[]]*", f"*has left behind: {what} *"])


def test_a_cluster_leaves_nothing(run: Run):
    run("""
def test_it(preble_cluster_factory):
    for processes in (False, True):
        cluster = preble_cluster_factory(processes=processes)
        assert cluster.url
        cluster.generate([1, 2])
""").assert_outcomes(passed=1)
