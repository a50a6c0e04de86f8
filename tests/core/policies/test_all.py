"""What holds for every policy, whatever it decides."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import chain
from types import FrameType
from typing import Any

import pytest

from preble.core.policies import POLICIES
from preble.core.policies.baselines.aibrix_prefix import AibrixPrefix
from preble.core.policies.baselines.guess import GuessIndex
from preble.core.policies.baselines.smetric import Smetric
from preble.core.policies.baselines.unfinished import Unfinished
from preble.core.policies.e2_paper.policy import E2Paper
from preble.core.policy import Query
from preble.core.scheduler import Scheduler
from preble.errors import NoWorkersError
from preble.tokens import pack
from preble.tree import RadixTree
from tests.core.life import live

BASELINES = sorted(set(POLICIES) - {"e2", "e2-paper"})


def trees(policy: Any) -> Iterator[RadixTree]:
    """The trees that a policy keeps itself."""
    for part in vars(policy).values():
        if isinstance(part, RadixTree):
            yield part
        elif isinstance(part, GuessIndex | Unfinished):
            yield part.tree


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("seed", range(3))
def test_any_life_is_survived_and_leaves_nothing(policy: str, seed: int):
    life = live(policy, seed, 200)
    life.end()
    for worker in life.workers:
        life.scheduler.remove_worker(worker, now=life.now)
    assert [tree.tokens for tree in trees(life.scheduler.policy)] == [0] * len(list(trees(life.scheduler.policy)))
    life.check()


@pytest.mark.parametrize(
    ("policy", "where", "name"),
    [
        ("dynamo-kv", Unfinished, "remove"),
        ("llm-d-weighted", Unfinished, "remove"),
        ("smetric", Smetric, "_release"),
        ("smg-gate", GuessIndex, "forget"),
        ("sglang-cache-aware", GuessIndex, "forget"),
        ("e2-paper", E2Paper, "_forget"),
        ("aibrix-prefix", AibrixPrefix, "worker_removed"),
    ],
)
def test_a_planted_leak_of_a_policy_is_found(monkeypatch: pytest.MonkeyPatch, policy: str, where: type, name: str):
    monkeypatch.setattr(where, name, lambda *arguments: 0)
    with pytest.raises(AssertionError):
        test_any_life_is_survived_and_leaves_nothing(policy, 0)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_same_seed_decides_the_same(policy: str):
    first, second = live(policy, 1, 150), live(policy, 1, 150)
    assert first.decisions == second.decisions
    assert len({worker for worker, _ in first.decisions}) > 1


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_asking_changes_nothing_that_counts(policy: str):
    """`place` alone, however often, books nothing: the next request may never be submitted."""
    life = live(policy, 3, 60)
    scheduler = life.scheduler
    match = scheduler.tree.match(pack([1] * 170))
    query = Query(170, 1, "s1", 0, match, scheduler.fleet.cached(match.levels, 170))
    held, before = [tree.tokens for tree in trees(scheduler.policy)], scheduler.snapshot()
    for _ in range(3):
        scheduler.policy.place(query, scheduler.fleet, life.now)
    assert (scheduler.snapshot(), [tree.tokens for tree in trees(scheduler.policy)]) == (before, held)
    life.check()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_without_workers_it_says_so(policy: str):
    with pytest.raises(NoWorkersError):
        Scheduler(policy).submit(1, [1], now=0.0)


def steps(action: Callable[[], object]) -> int:
    """How many instructions of Python run in a call: what it costs, without a clock."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(previous)
    return count


@pytest.mark.parametrize("policy", BASELINES)
def test_a_decision_costs_no_more_when_there_are_many_requests(policy: str):
    scheduler = Scheduler(policy)
    for worker in "abcd":
        scheduler.add_worker(worker, kv_tokens=1 << 20, now=0.0)
    numbers = iter(range(10_000))

    def submit() -> None:
        number = next(numbers)
        scheduler.submit(number, chain_of(number), session=f"s{number}", now=0.0)

    def cost() -> float:
        return sum(steps(submit) for _ in range(40))

    for _ in range(40):
        submit()
    few = cost()
    for _ in range(1500):
        submit()
    assert cost() < 1.2 * few


def chain_of(number: int) -> list[int]:
    return list(chain([1] * 40, [100 + number] * 30))
