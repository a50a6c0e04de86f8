"""What holds for every policy, whatever it decides."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import chain
from random import Random
from types import FrameType
from typing import Any

import pytest

from preble.core.policies import POLICIES
from preble.core.policies.baselines.aibrix_prefix import AibrixPrefix
from preble.core.policies.baselines.guess import GuessIndex
from preble.core.policies.baselines.smetric import Smetric
from preble.core.policies.baselines.unfinished import Unfinished
from preble.core.policies.e2_paper.policy import E2Paper
from preble.core.scheduler import Scheduler
from preble.errors import NoWorkersError
from preble.tree import RadixTree

BASELINES = sorted(set(POLICIES) - {"e2", "e2-paper"})


class Life:
    """A seeded random life of a scheduler: which request is where, what was decided."""

    def __init__(self, policy: str, seed: int) -> None:
        self.scheduler = Scheduler(policy, seed=seed)
        self.random = Random(seed)
        self.now = 0.0
        self.count = 0
        self.workers: list[str] = []
        self.serves: dict[str, list[str] | None] = {}
        self.flying: list[int] = []
        self.decisions: list[tuple[str, str]] = []
        self.add()
        self.add()

    def step(self) -> None:
        self.now += self.random.random()
        events = [self.submit] * 6 + [self.started, self.first_token] * 2 + [self.finish] * 3
        self.random.choice([*events, self.evicted, self.add, self.remove, self.drain])()

    def next(self) -> int:
        self.count += 1
        return self.count

    def submit(self) -> None:
        shared, own = self.random.randrange(4), self.random.randrange(40)
        prompt = [shared] * self.random.choice([1, 20, 150]) + [100 + own] * self.random.randrange(90)
        session = self.random.choice([None, f"s{shared}"])
        id = self.next()
        namespace = self.random.choice(["", "", "x", "y"])
        try:
            placement = self.scheduler.submit(id, prompt, session=session, namespace=namespace, now=self.now)
        except NoWorkersError:
            assert not self.taking(namespace)
            return
        assert placement.worker in self.taking(namespace)
        self.decisions.append((placement.worker, placement.reason))
        self.flying.append(id)

    def taking(self, namespace: str) -> list[str]:
        """The workers that may be sent requests of a namespace."""
        live = {self.scheduler.fleet.names[slot] for slot in self.scheduler.fleet.live}
        serving = [worker for worker, names in self.serves.items() if names is None or namespace in names]
        return [worker for worker in serving if worker in live]

    def pick(self) -> int | None:
        return self.random.choice(self.flying) if self.flying else None

    def started(self) -> None:
        if (id := self.pick()) is not None:
            self.scheduler.started(id, cached_tokens=0, now=self.now)

    def first_token(self) -> None:
        if (id := self.pick()) is not None:
            self.scheduler.first_token(id, now=self.now)

    def finish(self) -> None:
        if (id := self.pick()) is not None:
            self.flying.remove(id)
            self.scheduler.finish(id, output=[5] * self.random.randrange(3), now=self.now)

    def evicted(self) -> None:
        if self.workers:
            worker = self.random.choice(self.workers)
            self.scheduler.evicted(worker, [self.random.randrange(4)] * 30, 10, now=self.now)

    def add(self) -> None:
        if len(self.workers) < 5:
            worker = f"w{self.next()}"
            self.workers.append(worker)
            names = self.serves[worker] = self.random.choice([None, None, ["x"], ["", "y"]])
            self.scheduler.add_worker(worker, kv_tokens=600, block_size=16, namespaces=names, now=self.now)

    def drain(self) -> None:
        if self.workers:
            self.scheduler.drain_worker(self.random.choice(self.workers), now=self.now)

    def remove(self) -> None:
        if self.workers:
            worker = self.workers.pop(self.random.randrange(len(self.workers)))
            for id in self.scheduler.remove_worker(worker, now=self.now):
                if self.taking(""):
                    self.scheduler.submit(id, [id, 1, 2], now=self.now)
                else:
                    self.flying.remove(id)
                    self.scheduler.finish(id, now=self.now)

    def check(self) -> None:
        self.scheduler.check()
        getattr(self.scheduler.policy, "check", lambda: None)()

    def live(self, steps: int) -> Life:
        for number in range(steps):
            self.step()
            if number % 8 == 0:
                self.check()
        return self

    def end(self) -> None:
        for id in self.flying:
            self.scheduler.finish(id, now=self.now)
        self.check()


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
    life = Life(policy, seed).live(200)
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
    first, second = Life(policy, 1).live(150), Life(policy, 1).live(150)
    assert first.decisions == second.decisions
    assert len({worker for worker, _ in first.decisions}) > 1


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_asking_changes_nothing_that_counts(policy: str):
    """`place` alone, however often, books nothing: the next request may never be submitted."""
    life = Life(policy, 2).live(60)
    while not life.flying:
        life.step()
    held = [tree.tokens for tree in trees(life.scheduler.policy)]
    before = life.scheduler.snapshot()
    query = life.scheduler._query(life.scheduler._requests[life.flying[0]])
    for _ in range(3):
        life.scheduler.policy.place(query, life.scheduler.fleet, life.now)
    assert (life.scheduler.snapshot(), [tree.tokens for tree in trees(life.scheduler.policy)]) == (before, held)
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
