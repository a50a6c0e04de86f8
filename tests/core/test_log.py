from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from preble.core import log
from preble.core.cost import StepTiming
from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.errors import ConfigurationError, InvalidRequestError
from preble.tokens import pack
from preble.tree import cache_salt
from preble.wait_queue.disciplines import Discipline
from tests.core.conftest import LINEAR


def live(policy: str, seed: int = 0, steps: int = 150) -> list[bytes]:
    """Return the log of a life in which everything happens, the same one for the same arguments."""
    lines: list[bytes] = []
    scheduler = Scheduler(policy, seed=seed, log=lines.append)
    draw = random.Random(7)
    for worker in "abc":
        order: Discipline = "fcfs" if worker == "b" else "response-ratio"
        scheduler.add_worker(
            worker, kv_tokens=400, cost=LINEAR, discipline=order, reports_evictions=worker == "a", now=0.0
        )
    running: list[int] = []
    for step in range(steps):
        now = step / 10
        prompt = [draw.randrange(3), *range(draw.randrange(1, 60))]
        session = f"s{step % 5}" if step % 2 else None
        scheduler.submit(step, prompt, session=session, tenant="ab"[step % 2] if step % 3 else "", now=now)
        running.append(step)
        id = running[draw.randrange(len(running))]
        match draw.randrange(5):
            case 0:
                scheduler.started(id, cached_tokens=draw.choice([None, 0, 1, 2, 3]), now=now)
            case 1:
                scheduler.first_token(id, now=now)
            case 2 | 3:
                running.remove(id)
                scheduler.finish(id, output=[1] * draw.randrange(5), now=now)
            case 4:
                scheduler.evicted("a", prompt, 3, cache_salt=cache_salt("", "a"), now=now)
                scheduler.observe("b", [StepTiming(5, 50, 50, 250, 0, 0.01)], now=now)
    scheduler.add_worker("d", kv_tokens=400, cost="small-cpu", max_batched_tokens=8, now=99.0)
    scheduler.drain_worker("b", now=99.0)
    scheduler.adjust_worker("c", penalty=0.5, now=99.0)
    scheduler.adjust_worker("d", paused=True, now=99.0)
    scheduler.add_worker("e", kv_tokens=400, cost=LINEAR, namespaces=["n", "m"], now=99.0)
    for step, namespace in enumerate("nxmx", steps):
        scheduler.submit(step, [1] * 50, namespace=namespace, now=99.0)
    scheduler.adjust_worker("d", now=99.0)
    scheduler.submit("assigned", [9] * 50, worker="d", now=99.0)
    scheduler.submit("failed elsewhere", [9] * 50, excluded=["d"], now=99.0)
    crowd(scheduler, "c")
    for orphan in scheduler.remove_worker("a", now=100.0):
        scheduler.submit(orphan, [1, 2, 3], now=100.0)
    scheduler.evicted("c", b"", 0, now=100.0)
    scheduler.check()
    return lines


def crowd(scheduler: Scheduler, worker: str) -> None:
    """Send a worker more than the others have, and carry out those moves that the scheduler then proposes."""
    newcomers = [f"waits {step}" for step in range(5)]
    for step, id in enumerate(newcomers):
        scheduler.submit(id, [step] * 300, worker=worker, now=99.0)
    for move in scheduler.rebalance(99.5):
        if move.id not in newcomers:
            continue
        scheduler.finish(move.id, now=99.5)
        scheduler.submit(move.id, [4, 5, 6], now=99.5)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_same_seed_and_calls_give_the_same_bytes(policy: str):
    assert live(policy) == live(policy)


def test_the_same_bytes_whatever_the_hash_seed():
    code = (
        "import sys; from tests.core.test_log import live; from preble.core.policies import POLICIES\n"
        "for policy in POLICIES: sys.stdout.buffer.writelines(live(policy, steps=40))"
    )

    def run(hash_seed: str) -> bytes:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        root = Path(__file__).parents[2]
        return subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True).stdout

    first = run("1")
    assert first.count(b"\n") > 100
    assert run("2") == first


def test_every_event_is_a_line_and_comes_back():
    lines = live("e2")
    events = [log.decode(line) for line in lines]
    assert {type(event) for event in events} == set(log.Event.__args__)
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    assert events[0] == log.Begin("e2", 0, log.VERSION)


def test_a_submission_has_all_it_takes_and_its_receipt():
    lines: list[bytes] = []
    scheduler = Scheduler(log=lines.append)
    for worker in "ab":
        scheduler.add_worker(worker, kv_tokens=100, cost=LINEAR, now=0.0)
    placement = scheduler.submit(
        "r", [5, 6], max_tokens=3, session="s", priority=-1, namespace="m", tenant="t", worker="b", now=2.5
    )
    event = log.decode(lines[-1])
    assert isinstance(event, log.Submitted)
    assert (event.id, event.tokens, event.max_tokens, event.now) == ("r", pack([5, 6]), 3, 2.5)
    assert (event.session, event.priority, event.namespace, event.tenant) == ("s", -1, "m", "t")
    assert (event.worker, event.chosen, event.reason) == ("b", "b", "assigned by caller")
    assert event.predicted_ttft == placement.predicted_ttft
    assert event.candidates == scheduler.explain("r").candidates


def test_what_changed_nothing_is_not_in_the_log():
    lines: list[bytes] = []
    scheduler = Scheduler(log=lines.append)
    scheduler.add_worker("a", kv_tokens=100, now=0.0)
    scheduler.submit(1, [1], now=0.0)
    before = len(lines)
    with pytest.raises(InvalidRequestError):
        scheduler.submit(1, [1], now=0.0)
    with pytest.raises(ConfigurationError):
        scheduler.submit(2, [1], worker="b", now=0.0)
    with pytest.raises(KeyError):
        scheduler.finish(2, now=0.0)
    assert len(lines) == before


@pytest.mark.parametrize("id", [(1, 2), None, 1.5, True, 1 << 64, "\ud800"])
def test_what_a_line_cannot_hold_is_refused_before_anything_changes(id: object):
    scheduler = Scheduler(log=[].append)
    scheduler.add_worker("a", kv_tokens=100, now=0.0)
    with pytest.raises(InvalidRequestError):
        scheduler.submit(id, [1], now=0.0)
    with pytest.raises(InvalidRequestError):
        scheduler.submit(1, [1], session="\ud800", now=0.0)
    assert scheduler.snapshot().requests == 0


def test_without_a_log_any_hashable_is_an_id():
    scheduler = Scheduler()
    scheduler.add_worker("a", kv_tokens=100, now=0.0)
    assert scheduler.submit((1, None), [1], now=0.0).worker == "a"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"event":"exec","now":0}',
        b'{"event":"finish","id":1,"now":"soon"}',
        b'{"event":"finish","id":1,"now":0.0,"more":1}',
        b'{"event":"finish","id":1,"now":0.0,"output":"?"}',
        b'{"event":"started","id":1,"cached_tokens":-1,"now":0.0}',
        b'{"event":"begin","policy":"e2","seed":0,"version":1}',
        b"\xff\xfe",
        b'"' + b"a" * log.MAX_LINE + b'"',
    ],
)
def test_what_is_no_event_is_refused(line: bytes):
    with pytest.raises(ConfigurationError, match="log: "):
        log.decode(line)
