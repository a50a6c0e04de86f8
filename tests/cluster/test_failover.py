"""One worker of three is bad: requests are answered by the others, and it is told what happened to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the openai engine needs aiohttp")

from bench.failover.engine import FaultyEngine, fleet_options, received
from bench.failover.kinds import EngineFault, ReplicaFault
from bench.failover.replica import Replica
from preble import (
    ClosedError,
    DeadlineExceededError,
    EngineError,
    Generation,
    NoWorkersError,
    OverloadedError,
    PrebleCluster,
    SamplingParams,
)
from preble.dispatch import breaker, health
from preble.types import WorkerEvent, WorkerStats
from preble.workers.replicas import PATIENCE
from tests.cluster.cases import eventually, prompt
from tests.openai_server import OpenAIServer

SIM = {"vocab_size": 32_000, "kv_tokens": 20_000}
CONNECTED = {"vocab_size": 32_000, "health_interval": 0.05, "health_timeout": 5.0, "cost": "small-cpu"}
ANSWER = SamplingParams(max_tokens=10, temperature=0.0, ignore_eos=True)
REQUESTS = 30
BAD = 0
GOOD = ReplicaFault()
FULL = ReplicaFault(status=429)


class Fleet:
    """Three replicas, a cluster of them, and what it has told of its workers."""

    def __init__(self, replicas: list[Replica], cluster: PrebleCluster, events: list[WorkerEvent]) -> None:
        self.replicas = replicas
        self.cluster = cluster
        self.events = events

    def bad(self) -> WorkerStats:
        return stats(self.cluster, self.replicas[BAD].url)

    def all_are(self, fault: ReplicaFault) -> None:
        for replica in self.replicas:
            replica.fault = fault

    def kinds(self) -> list[tuple[str, str]]:
        return [(event.kind, event.worker) for event in self.events]


def stats(cluster: PrebleCluster, worker: str) -> WorkerStats:
    return next(each for each in cluster.stats().workers if each.worker == worker)


async def served(cluster: PrebleCluster, count: int = REQUESTS) -> list[tuple[int, ...]]:
    """Serve so many prompts and return their tokens."""
    async with asyncio.timeout(20.0):
        outs = await cluster.generate_many([prompt(number) for number in range(count)], ANSWER, concurrency=8)
    return [out.token_ids for out in outs]


async def served_until(cluster: PrebleCluster, condition: Callable[[], bool]) -> None:
    """Go on serving until `condition` holds; fail if it does not in time."""
    async with asyncio.timeout(20.0):
        while not condition():
            await served(cluster, 3)


async def right_tokens(count: int = REQUESTS) -> list[tuple[int, ...]]:
    async with PrebleCluster(backend="sim", workers=1, processes=False, engine_options=SIM) as undisturbed:
        return await served(undisturbed, count)


@asynccontextmanager
async def three(**options: Any) -> AsyncIterator[Fleet]:
    """Round robin, so that the bad one has its turn."""
    events: list[WorkerEvent] = []
    options = {"policy": "round-robin", "on_event": events.append, **options}
    connected = {**CONNECTED, **options.pop("engine_options", {})}
    async with Replica(**SIM) as one, Replica(**SIM) as two, Replica(**SIM) as three:
        replicas = [one, two, three]
        urls = [replica.url for replica in replicas]
        async with PrebleCluster.connect(urls, engine_options=connected, **options) as cluster:
            yield Fleet(replicas, cluster, events)
            cluster.check()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left alone is tried again after a moment."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(health, "FULL_PAUSE", 0.2)


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings are heard, whatever level other tests in this process have set."""
    caplog.set_level(logging.INFO, logger="preble")


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


SOON_SILENT = {"idle_timeout": 1.0}
OPENED, CLOSED = "gets no new requests for a while", "gets requests again"


@pytest.mark.parametrize(
    ("fault", "reason", "error"),
    [
        (ReplicaFault(status=500), "out of order", "engine"),
        (ReplicaFault(status=404), "out of order", "refused"),
        (ReplicaFault(break_after=4), "ClientPayloadError", "unreachable"),
        (ReplicaFault(hangs=True), "no token within", "timeout"),
    ],
    ids=["500", "404", "breaks streams", "hangs"],
)
async def test_a_bad_replica_is_left_out_told_of_and_used_again(
    fault: ReplicaFault, reason: str, error: str, caplog: pytest.LogCaptureFixture
):
    async with three(**(SOON_SILENT if error == "timeout" else {})) as fleet:
        url = fleet.replicas[BAD].url
        fleet.replicas[BAD].fault = fault
        assert await served(fleet.cluster) == await right_tokens()
        assert fleet.bad().status in ("open", "half_open")
        assert reason in fleet.bad().reason
        assert fleet.bad().errors[error] >= breaker.LEAST_FAILURES
        assert fleet.bad().finished == 0
        fleet.replicas[BAD].fault = GOOD
        await served_until(fleet.cluster, lambda: fleet.bad().status == "serving")
        assert fleet.kinds() == [("opened", url), ("closed", url)]
        assert reason in fleet.events[0].reason
        for words in (OPENED, CLOSED):
            (message,) = said(caplog, words)
            assert url in message
        await served(fleet.cluster)
        assert fleet.bad().finished >= REQUESTS // 3


@pytest.mark.parametrize(("status", "retry_after"), [(429, None), (503, None), (429, 60)])
async def test_a_full_replica_gets_nothing_for_a_while_and_is_not_blamed(status: int, retry_after: int | None):
    expected = await right_tokens()
    async with three() as fleet:
        fleet.replicas[BAD].fault = ReplicaFault(status=status, retry_after=retry_after)
        assert await served(fleet.cluster) == expected
        await served_until(fleet.cluster, lambda: fleet.bad().status == "full")
        assert "out of order" in fleet.bad().reason
        before = fleet.replicas[BAD].received
        assert fleet.bad().errors == {"full": before}
        assert fleet.events == []
        if retry_after:
            await served(fleet.cluster)
            assert fleet.replicas[BAD].received == before
        else:
            fleet.replicas[BAD].fault = GOOD
            await served_until(fleet.cluster, lambda: fleet.bad().finished > 0)


async def test_a_replica_that_serves_is_alive_however_late_it_says_so():
    async with three(engine_options={"health_timeout": 0.3}) as fleet:
        bad = fleet.replicas[BAD]
        bad.fault = ReplicaFault(late_health=60.0)
        enough = bad.health_checks + PATIENCE + 2
        await served_until(fleet.cluster, lambda: bad.health_checks >= enough)
        assert fleet.bad().status == "serving"
        assert bad.url not in {event.worker for event in fleet.events}
        assert fleet.bad().errors == {}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (EngineFault(error="broken"), "out of order"),
        (EngineFault(error="broken", tokens=4), "out of order"),
        (EngineFault({"hang_after": 3}), "no token within"),
    ],
    ids=["fails", "breaks streams", "hangs"],
)
async def test_a_bad_engine_is_left_out_and_told_of(
    fault: EngineFault, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    events: list[WorkerEvent] = []
    silent = SOON_SILENT if reason == "no token within" else {}
    async with engines(tmp_path, fault, on_event=events.append, **silent) as cluster:
        assert await served(cluster) == await right_tokens()
        assert [event.kind for event in events] == ["opened"]
        bad = stats(cluster, events[0].worker)
        assert bad.status in ("open", "half_open")
        assert reason in bad.reason
        assert len(said(caplog, OPENED)) == 1
        cluster.check()


@pytest.mark.parametrize(
    ("fault", "status"),
    [(EngineFault(steps_fail_after=4), ("open", "half_open", "lost")), (EngineFault({"crash_after": 4}), ("lost",))],
    ids=["every step raises", "crashes"],
)
async def test_a_bad_process_is_left_out_and_told_of(fault: EngineFault, status: tuple[str, ...], tmp_path: Path):
    events: list[WorkerEvent] = []
    async with engines(tmp_path, fault, processes=True, on_event=events.append) as cluster:
        assert await served(cluster) == await right_tokens()
        assert events
        assert {event.worker for event in events} == {events[0].worker}
        assert stats(cluster, events[0].worker).status in status
        assert sum(received(tmp_path)[1:]) >= REQUESTS - 4
        cluster.check()


def engines(folder: Path, fault: EngineFault, *, processes: bool = False, **options: Any) -> PrebleCluster:
    """A cluster of three engines of which the first has the fault; in this event loop unless `processes`."""
    return PrebleCluster(
        backend="bench.failover.engine:FaultyEngine" if processes else FaultyEngine,
        workers=3,
        processes=processes,
        policy="round-robin",
        cost="small-cpu",
        engine_options=fleet_options(folder, fault, 3, **SIM),
        **options,
    )


async def test_what_fails_everywhere_is_the_request_s_own_fault():
    events: list[WorkerEvent] = []
    open_at_once: list[int] = []

    def hear(event: WorkerEvent) -> None:
        events.append(event)
        open_at_once.append(sum({"opened": 1, "closed": -1}[each.kind] for each in events))

    options = {**SIM, "fail_prompt_token": 5}
    async with PrebleCluster(
        backend="sim", workers=3, processes=False, engine_options=options, policy="round-robin", on_event=hear
    ) as cluster:
        bad = [cluster.generate([5, *prompt(number)], ANSWER) for number in range(20)]
        good = [cluster.generate(prompt(number), ANSWER) for number in range(20)]
        outs = await asyncio.gather(
            *(each for pair in zip(bad, good, strict=True) for each in pair), return_exceptions=True
        )
        assert all(isinstance(out, EngineError) and "token 5" in str(out) for out in outs[::2])
        assert all(isinstance(out, Generation) for out in outs[1::2])
        assert max(open_at_once, default=0) <= 1
        assert sum(worker.errors["engine"] for worker in cluster.stats().workers) <= 3 * 20
        await served(cluster)
        assert {worker.status for worker in cluster.stats().workers} == {"serving"}
        cluster.check()


async def test_when_all_are_full_requests_wait_until_one_is_not():
    async with three() as fleet:
        fleet.all_are(FULL)
        serving = asyncio.create_task(served(fleet.cluster))
        await eventually(lambda: fleet.cluster.stats().waiting == 8)
        fleet.replicas[2].fault = GOOD
        assert await serving == await right_tokens()
        assert fleet.events == []


async def test_when_all_are_lost_requests_wait_for_one_to_return():
    async with OpenAIServer(**SIM) as one, OpenAIServer(**SIM) as two:
        options = {**CONNECTED, "connect_timeout": 1.0, "backoff": 0.01, "backoff_limit": 0.05}
        async with PrebleCluster.connect([one.url, two.url], engine_options=options) as cluster:
            for server in (one, two):
                await server.stop()
            await eventually(lambda: {worker.status for worker in cluster.stats().workers} == {"lost"})
            serving = asyncio.create_task(served(cluster, 8))
            await eventually(lambda: cluster.stats().waiting == 8)
            await two.start()
            assert await serving == await right_tokens(8)
            assert stats(cluster, one.url).status == "lost"
            assert stats(cluster, two.url).restarts == 1
            cluster.check()


async def test_when_all_stay_full_the_error_says_so():
    async with three(worker_wait=0.3) as fleet:
        fleet.all_are(FULL)
        with pytest.raises(OverloadedError, match="out of order"):
            await fleet.cluster.generate(prompt(1), ANSWER)
        assert fleet.cluster.stats().counters.failed == 1


async def all_wait(fleet: Fleet, *tasks: asyncio.Task[Any]) -> None:
    await eventually(lambda: fleet.cluster.stats().waiting == len(tasks))


async def test_waiting_ends_when_the_caller_s_patience_does():
    async with three() as fleet:
        fleet.all_are(FULL)
        with pytest.raises(DeadlineExceededError):
            await fleet.cluster.generate(prompt(1), ANSWER, timeout=0.2)
        task = asyncio.create_task(fleet.cluster.generate(prompt(2), ANSWER))
        await all_wait(fleet, task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = fleet.cluster.stats()
        assert (found.waiting, found.in_flight) == (0, 0)
        assert (found.counters.failed, found.counters.cancelled) == (1, 1)
        fleet.all_are(GOOD)
        await fleet.cluster.generate(prompt(3), ANSWER)
        assert fleet.cluster.stats().counters.finished == 1


async def test_closing_ends_those_that_wait():
    async with three() as fleet:
        fleet.all_are(FULL)
        tasks = [asyncio.create_task(fleet.cluster.generate(prompt(number), ANSWER)) for number in range(4)]
        await all_wait(fleet, *tasks)
        await fleet.cluster.close()
        for task in tasks:
            with pytest.raises(ClosedError):
                await task


async def test_draining_waits_for_those_that_wait():
    async with three() as fleet:
        fleet.all_are(FULL)
        task = asyncio.create_task(fleet.cluster.generate(prompt(1), ANSWER))
        await all_wait(fleet, task)
        draining = asyncio.create_task(fleet.cluster.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        fleet.all_are(GOOD)
        await draining
        assert (await task).token_ids


async def test_those_that_wait_go_on_when_workers_are_drained_and_removed():
    async with three() as fleet:
        fleet.all_are(FULL)
        task = asyncio.create_task(fleet.cluster.generate(prompt(1), ANSWER))
        await all_wait(fleet, task)
        for replica in fleet.replicas[:2]:
            await fleet.cluster.drain_worker(replica.url)
            await fleet.cluster.remove_worker(replica.url)
        fleet.replicas[2].fault = GOOD
        assert (await task).worker == fleet.replicas[2].url


async def test_with_all_removed_requests_wait_no_longer_than_they_may():
    async with three(worker_wait=0.1) as fleet:
        for replica in fleet.replicas:
            await fleet.cluster.remove_worker(replica.url)
        with pytest.raises(NoWorkersError):
            await fleet.cluster.generate(prompt(1), ANSWER)


async def test_samples_go_on_elsewhere_in_the_middle_each_with_its_own_tokens(tmp_path: Path):
    several = SamplingParams(max_tokens=12, n=4, seed=7, temperature=1.0, ignore_eos=True)
    fault = EngineFault(error="broken", tokens=4)
    async with PrebleCluster(backend="sim", workers=1, processes=False, engine_options=SIM) as undisturbed:
        expected = await undisturbed.generate(prompt(1), several)
    assert len({choice.token_ids for choice in expected.choices}) == 4
    async with engines(tmp_path, fault) as cluster:
        out = await cluster.generate(prompt(1), several)
        streamed: dict[int, list[int]] = {}
        async for chunk in cluster.stream(prompt(1), several):
            streamed.setdefault(chunk.index, []).extend(chunk.token_ids)
        assert cluster.stats().counters.retried > 0
        cluster.check()
    assert [choice.token_ids for choice in out.choices] == [choice.token_ids for choice in expected.choices]
    assert [tuple(streamed[index]) for index in range(4)] == [choice.token_ids for choice in expected.choices]
