"""The face without an event loop: `SyncCluster`, over the `sim` engine in the loop of its own thread."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from preble import (
    ClosedError,
    ConfigurationError,
    ContextLengthError,
    Generation,
    InvalidRequestError,
    NotStartedError,
    PrebleCluster,
    SamplingParams,
    StateError,
    SyncCluster,
    WorkerStartError,
)
from tests.cluster.cases import GREEDY, SLOW, prompt

ENDLESS = SamplingParams(max_tokens=100_000, ignore_eos=True)
CLUSTERS = (PrebleCluster, SyncCluster)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, a while."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def running() -> Iterator[SyncCluster]:
    with SyncCluster(backend="sim", workers=2, processes=False, engine_options={"context_limit": 500}) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: SyncCluster) -> Iterator[SyncCluster]:
    yield running
    until(lambda: running.stats().in_flight == 0)
    running.check()


@pytest.fixture
def slow() -> Iterator[SyncCluster]:
    with SyncCluster(backend="sim", workers=1, processes=False, engine_options=SLOW) as cluster:
        yield cluster


def public(face: type) -> set[str]:
    return {name for name in vars(face) if not name.startswith("_")}


IN_A_LOOP = {"asgi", "openai", "anthropic", "httpx_client", "forward", "forwards", "tokenized"}
"""What only a program with an event loop can use."""


def test_it_has_every_method_and_every_property_of_the_asynchronous_one():
    fields = {"model", "backend"}  # which the other one has as attributes
    assert public(SyncCluster) - fields == public(PrebleCluster) - IN_A_LOOP
    assert all(hasattr(PrebleCluster("m"), name) for name in fields)


@pytest.mark.parametrize("name", sorted({*public(PrebleCluster), "__init__"} - {"tokenizer"} - IN_A_LOOP))
def test_each_method_takes_the_same_arguments_and_is_documented(name: str):
    theirs, ours = (inspect.signature(getattr(face, name)) for face in CLUSTERS)
    assert ours.parameters == theirs.parameters
    assert inspect.getdoc(getattr(SyncCluster, name))
    assert inspect.isfunction(inspect.unwrap(getattr(SyncCluster, name))) or name == "connect"


def test_an_answer_streams_as_it_is(cluster: SyncCluster):
    whole = cluster.generate(prompt(1), GREEDY)
    chunks = list(cluster.stream(prompt(1), GREEDY))
    assert sum((chunk.token_ids for chunk in chunks), ()) == whole.token_ids
    assert cluster.explain(whole.id).worker == whole.worker


def test_many_prompts_come_as_a_list_or_as_they_end(cluster: SyncCluster):
    prompts = [prompt(1), [9] * 501, prompt(2)]
    first, error, last = cluster.generate_many(iter(prompts), GREEDY, return_exceptions=True)
    assert isinstance(error, ContextLengthError)
    both = {"as_completed": True, "return_exceptions": True}
    ended = dict(cluster.generate_many(prompts, GREEDY, **both))
    assert [ended[0].token_ids, ended[2].token_ids] == [first.token_ids, last.token_ids]
    with pytest.raises(ContextLengthError, match=r"prompts\[1\]") as caught:
        cluster.generate_many(prompts, GREEDY, concurrency=1)
    assert list(caught.value.results) == [0]
    with pytest.raises(InvalidRequestError, match="one prompt"):
        cluster.generate_many("text")


def test_what_yields_prompts_may_ask_the_cluster(cluster: SyncCluster):
    def prompts() -> Iterator[tuple[int, ...]]:
        for number in range(3):
            yield cluster.generate(prompt(number), GREEDY).token_ids

    assert len(cluster.generate_many(prompts(), GREEDY)) == 3


def test_many_threads_may_call_it_at_once(cluster: SyncCluster):
    def call(number: int) -> tuple[int, ...]:
        return sum((chunk.token_ids for chunk in cluster.stream(prompt(number % 10), GREEDY)), ())

    with ThreadPoolExecutor(16) as pool:
        outs = list(pool.map(call, range(100)))
    assert [outs.count(out) for out in outs] == [10] * 100


def test_leaving_a_stream_cancels_its_request(slow: SyncCluster):
    for _ in slow.stream(prompt(1), ENDLESS):
        break
    assert slow.stats().in_flight == 0
    results = slow.generate_many([prompt(1), prompt(2)], [GREEDY, ENDLESS], as_completed=True)
    assert next(results)[0] == 0
    results.close()
    assert slow.stats().in_flight == 0
    assert slow.stats().counters.cancelled == 2


def test_it_may_be_called_where_an_event_loop_runs(cluster: SyncCluster):
    async def cell() -> Generation:
        return cluster.generate(prompt(1), GREEDY)

    assert len(asyncio.run(cell()).token_ids) == 8


def test_a_callback_may_ask_but_not_wait(cluster: SyncCluster):
    finished: list[int] = []
    cluster.generate_many([prompt(1)], GREEDY, progress=lambda _: finished.append(cluster.stats().counters.finished))
    assert len(finished) == 1
    with pytest.raises(StateError, match="callback"):
        cluster.generate_many([prompt(1)], GREEDY, progress=lambda _: cluster.generate(prompt(2)))


def test_workers_come_and_go_and_the_cluster_drains(slow: SyncCluster):
    assert slow.add_worker() == "w1"
    slow.drain_worker("w0")
    slow.remove_worker("w0")
    assert slow.generate(prompt(1), GREEDY).worker == "w1"
    slow.drain(reopen=False)
    slow.reset_cache()
    slow.reopen()
    assert slow.generate(prompt(1), GREEDY).usage.cached_tokens == 0


def test_calls_at_the_wrong_time_fail_at_once():
    cluster = SyncCluster(backend="sim", workers=1, processes=False)
    for call in (lambda: cluster.generate([1]), lambda: cluster.stream([1]), cluster.stats, cluster.reset_cache):
        with pytest.raises(NotStartedError):
            call()
    cluster.start()
    with pytest.raises(ClosedError, match="starts once"):
        cluster.start()
    stream = cluster.stream(prompt(1), ENDLESS)
    next(stream)
    cluster.close()
    cluster.close()
    with pytest.raises(ClosedError):
        list(stream)
    for call in (lambda: cluster.generate([1]), lambda: cluster.stream([1]), cluster.stats, cluster.start):
        with pytest.raises(ClosedError):
            call()
    unused = SyncCluster(backend="sim", processes=False)
    unused.close()
    with pytest.raises(ClosedError):
        unused.start()


def test_closing_ends_what_other_threads_wait_for(slow: SyncCluster):
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(slow.generate, prompt(number), ENDLESS) for number in range(8)]
        until(lambda: slow.stats().in_flight == 8)
        slow.close()
        assert [type(call.exception(timeout=10)) for call in calls] == [ClosedError] * 8


def loops() -> int:
    return sum(thread.name == "preble-cluster" for thread in threading.enumerate())


def test_a_cluster_that_does_not_start_leaves_no_thread():
    before = loops()
    with pytest.raises(ConfigurationError, match="nonsense"):
        SyncCluster(backend="sim", processes=False, engine_options={"nonsense": 1}).start()
    servers = SyncCluster.connect(["http://127.0.0.1:1"], start_timeout=0.1)
    assert (servers.backend, servers.model) == ("openai", None)
    with pytest.raises(WorkerStartError):
        servers.start()
    assert loops() == before


def test_one_that_gets_no_event_loop_says_why(monkeypatch: pytest.MonkeyPatch):
    def no_more() -> None:
        raise OSError("too many open files")

    before = threading.active_count()
    monkeypatch.setattr(asyncio, "new_event_loop", no_more)
    monkeypatch.setattr(asyncio.events, "new_event_loop", no_more)
    cluster = SyncCluster(backend="sim", processes=False)
    with ThreadPoolExecutor(1) as pool:
        assert str(pool.submit(cluster.start).exception(timeout=10)) == "too many open files"
    cluster.close()
    until(lambda: threading.active_count() == before)


def test_one_that_is_forgotten_ends_its_thread():
    before = loops()
    cluster = SyncCluster(backend="sim", workers=1, processes=False)
    cluster.start()
    assert loops() == before + 1
    with pytest.warns(ResourceWarning, match=r"made at .*test_sync\.py"):
        del cluster
    until(lambda: loops() == before)


def test_an_interruption_right_after_the_request_was_sent_cancels_it(slow: SyncCluster, monkeypatch):
    hand_over = asyncio.run_coroutine_threadsafe

    def interrupted(*args: object) -> None:
        hand_over(*args)
        until(lambda: slow.stats().in_flight == 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        slow.generate(prompt(1), ENDLESS)
    monkeypatch.undo()
    until(lambda: slow.stats().in_flight == 0)
    assert slow.stats().counters.cancelled == 1


INTERRUPTED = """
    import os, signal, threading, time
    from preble import SamplingParams, SyncCluster

    def interrupt():
        while cluster.stats().in_flight == 0:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
    slow = {"time_scale": 1.0}
    with SyncCluster(backend="sim", workers=1, processes=False, engine_options=slow) as cluster:
        threading.Thread(target=interrupt).start()
        try:
            cluster.generate([1, 2, 3], SamplingParams(max_tokens=100_000, ignore_eos=True))
        except KeyboardInterrupt:
            while cluster.stats().in_flight:
                time.sleep(0.01)
            print(cluster.stats().counters.cancelled, len(cluster.generate([1, 2, 3]).choices))
"""

FORKED = """
    import os
    from preble import StateError, SyncCluster

    with SyncCluster(backend="sim", workers=1, processes=False) as cluster:
        if (child := os.fork()) == 0:
            try:
                cluster.generate([1, 2, 3])
            except StateError as error:
                os._exit(7 if "forked" in str(error) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(cluster.generate([1, 2, 3]).choices))
"""


@pytest.mark.parametrize(
    ("program", "printed"), [(INTERRUPTED, "1 1\n"), (FORKED, "7 1\n")], ids=["interrupted", "forked"]
)
def test_a_program(program: str, printed: str):
    # Python 3.12 and later warn of any fork beside threads
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (printed, "")
