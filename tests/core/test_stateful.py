"""Any order of events leaves the books right, and the end leaves them empty."""

from __future__ import annotations

from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from preble.core import ledger
from preble.core.cost import StepTiming
from preble.core.fleet import Fleet
from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.errors import NamespaceNotServedError, NoWorkersError
from preble.tokens import pack
from preble.tree import RadixTree
from preble.wait_queue.disciplines import Discipline

tokens = st.lists(st.integers(0, 1), min_size=1, max_size=12)
outputs = st.lists(st.integers(0, 1), min_size=1, max_size=6)
indices = st.integers(0, 99)
capacities = st.sampled_from([6, 20, 1000])
costs = st.sampled_from(["mistral-7b-a6000", "small-cpu"])
namespaces = st.sampled_from(["", "x", "y"])
served = st.sampled_from([None, None, ("x",), ("", "y")])


class Life(RuleBasedStateMachine):
    """A scheduler, and the bare facts of who is where: request ids, worker names."""

    @initialize(policy=st.sampled_from(sorted(POLICIES)), seed=indices)
    def start(self, policy: str, seed: int) -> None:
        self.scheduler = Scheduler(policy, seed=seed, receipts=4)
        self.workers: list[str] = []
        self.drained: set[str] = set()
        self.serves: dict[str, tuple[str, ...] | None] = {}
        self.placed: dict[int, str] = {}
        self.namespaces: dict[int, str] = {}
        self.orphans: list[int] = []
        self.count = 0
        self.now = 0.0
        self.add_worker(1000, 1, "small-cpu", True, True, None, "fcfs")
        self.add_worker(20, 4, "mistral-7b-a6000", False, False, None, "response-ratio")

    def tick(self) -> float:
        self.now += 0.05
        return self.now

    def pick(self, index: int) -> int:
        return sorted(self.placed)[index % len(self.placed)]

    def taking(self, namespace: str) -> set[str]:
        """The workers that requests of a namespace may be sent to."""
        here = set(self.workers) - self.drained
        return {worker for worker in here if (names := self.serves[worker]) is None or namespace in names}

    @rule(
        kv_tokens=capacities,
        block_size=st.sampled_from([1, 4]),
        cost=costs,
        reports=st.booleans(),
        steps=st.booleans(),
        names=served,
        discipline=st.sampled_from(get_args(Discipline)),
    )
    def add_worker(
        self,
        kv_tokens: int,
        block_size: int,
        cost: str,
        reports: bool,
        steps: bool,
        names: tuple[str, ...] | None,
        discipline: Discipline,
    ) -> None:
        if len(self.workers) < 4:
            self.count += 1
            self.workers.append(f"w{self.count}")
            self.serves[self.workers[-1]] = names
            self.scheduler.add_worker(
                self.workers[-1],
                kv_tokens=kv_tokens,
                block_size=block_size,
                cost=cost,
                discipline=discipline,
                reports_evictions=reports,
                reports_steps=steps,
                namespaces=names,
                now=self.tick(),
            )

    @precondition(lambda self: self.workers)
    @rule(index=indices)
    def remove_worker(self, index: int) -> None:
        worker = self.workers.pop(index % len(self.workers))
        self.drained.discard(worker)
        lost = self.scheduler.remove_worker(worker, now=self.tick())
        assert sorted(lost) == sorted(id for id, at in self.placed.items() if at == worker)
        self.orphans += lost
        for id in lost:
            del self.placed[id]

    @precondition(lambda self: self.workers)
    @rule(index=indices)
    def drain_worker(self, index: int) -> None:
        worker = self.workers[index % len(self.workers)]
        self.drained.add(worker)
        self.scheduler.drain_worker(worker, now=self.tick())

    @rule(prompt=tokens, max_tokens=st.integers(0, 8), tenant=st.sampled_from(["", "x", "y"]), namespace=namespaces)
    def submit(self, prompt: list[int], max_tokens: int, tenant: str, namespace: str) -> None:
        self.count += 1
        self.namespaces[self.count] = namespace
        self.place(self.count, prompt, max_tokens, tenant)

    @precondition(lambda self: self.orphans)
    @rule(prompt=tokens)
    def submit_again(self, prompt: list[int]) -> None:
        id = self.orphans.pop(0)
        if not self.place(id, prompt, 4):
            self.orphans.append(id)

    def place(self, id: int, prompt: list[int], max_tokens: int, tenant: str = "", worker: str | None = None) -> bool:
        namespace = self.namespaces[id]
        try:
            placement = self.scheduler.submit(
                id, prompt, max_tokens=max_tokens, namespace=namespace, tenant=tenant, worker=worker, now=self.tick()
            )
        except NamespaceNotServedError:
            assert not self.taking(namespace)
            assert set(self.workers) - self.drained
            return False
        except NoWorkersError:
            assert set(self.workers) <= self.drained
            return False
        assert placement.worker in self.taking(namespace)
        assert 0 <= placement.cached_tokens < len(prompt)
        assert placement.predicted_ttft > 0
        self.placed[id] = placement.worker
        return True

    @precondition(lambda self: self.placed)
    @rule(index=indices, cached=st.none() | st.integers(0, 12))
    def started(self, index: int, cached: int | None) -> None:
        self.scheduler.started(self.pick(index), cached_tokens=cached, now=self.tick())

    @precondition(lambda self: self.placed)
    @rule(index=indices)
    def first_token(self, index: int) -> None:
        self.scheduler.first_token(self.pick(index), now=self.tick())

    @precondition(lambda self: self.placed)
    @rule(index=indices, output=outputs)
    def finish(self, index: int, output: list[int]) -> None:
        id = self.pick(index)
        del self.placed[id]
        self.scheduler.finish(id, output=output, now=self.tick())

    @precondition(lambda self: self.placed)
    @rule(index=indices)
    def cancel(self, index: int) -> None:
        id = self.pick(index)
        del self.placed[id]
        self.scheduler.finish(id, now=self.tick())

    @precondition(lambda self: self.orphans)
    @rule(output=st.one_of(st.just([]), outputs))
    def give_up(self, output: list[int]) -> None:
        self.scheduler.finish(self.orphans.pop(), output=output, now=self.tick())

    @precondition(lambda self: self.workers)
    @rule(index=indices, new=st.integers(1, 3000), decodes=st.integers(0, 4), seconds=st.floats(0.0, 10.0))
    def observe(self, index: int, new: int, decodes: int, seconds: float) -> None:
        steps = [StepTiming(new, 2 * new, 2 * new, 2 * new * new, min(new, decodes), seconds)] * 8
        self.scheduler.observe(self.workers[index % len(self.workers)], steps, now=self.tick())

    @precondition(lambda self: self.workers)
    @rule(index=indices, prompt=tokens, keep=st.integers(0, 12))
    def evicted(self, index: int, prompt: list[int], keep: int) -> None:
        self.scheduler.evicted(self.workers[index % len(self.workers)], prompt, keep, now=self.tick())

    @precondition(lambda self: self.workers)
    @rule(index=indices)
    def cleared(self, index: int) -> None:
        self.scheduler.evicted(self.workers[index % len(self.workers)], b"", 0, now=self.tick())

    @rule()
    def rebalance(self) -> None:
        before = self.scheduler.snapshot()
        for move in self.scheduler.rebalance(self.tick()):
            assert self.placed[move.id] == move.source != move.target
            assert move.target in self.taking(self.namespaces[move.id])
        assert self.scheduler.snapshot() == before

    @precondition(lambda self: self.placed)
    @rule()
    def move(self) -> None:
        for move in self.scheduler.rebalance(self.tick()):
            self.scheduler.finish(move.id, now=self.tick())
            assert self.place(move.id, [1, 0, 1], 4, worker=move.target)
            assert self.placed[move.id] == move.target

    @invariant()
    def the_books_are_right(self) -> None:
        scheduler = self.scheduler
        scheduler.check()
        snapshot = scheduler.snapshot()
        assert snapshot.requests == len(self.placed) + len(self.orphans)
        for state in snapshot.workers:
            mine = [id for id, worker in self.placed.items() if worker == state.worker]
            assert state.requests == len(mine)
            assert mine or state.load == 0.0
            assert mine or state.held_tokens <= 1.25 * state.kv_tokens

    def teardown(self) -> None:
        for id in [*getattr(self, "placed", ()), *getattr(self, "orphans", ())]:
            self.scheduler.finish(id, now=self.tick())
        if hasattr(self, "scheduler"):
            self.scheduler.check()
            snapshot = self.scheduler.snapshot()
            assert snapshot.requests == 0
            assert all((state.load, state.requests) == (0.0, 0) for state in snapshot.workers)
            assert not self.scheduler.fleet.pending[self.scheduler.fleet.live].any()


Life.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (ledger, "leave", lambda fleet, request: None),
        (ledger, "release", lambda fleet, request: None),
        (Scheduler, "_resize", lambda self, slot, now: None),
        (RadixTree, "unpin", lambda self, node, worker: None),
        (Fleet, "serving", lambda self, namespace: self),
    ],
)
def test_a_life_does_not_survive_a_planted_fault(
    monkeypatch: pytest.MonkeyPatch, where: type | ModuleType, name: str, fault: Any
):
    """The test of the test above: what it is there to find, it finds."""
    monkeypatch.setattr(where, name, fault)
    quick = settings(
        max_examples=100, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Life, settings=settings(quick, stateful_step_count=50, deadline=None))


def live_a_little() -> None:
    scheduler = Scheduler()
    scheduler.add_worker("a", kv_tokens=100, now=0.0)
    for id in range(3):
        scheduler.submit(id, [id, 1, 2], now=0.0)
    scheduler.first_token(0, now=0.0)
    scheduler.finish(0, output=[1, 2], now=0.0)
    scheduler.check()


def test_nothing_leaks():
    live_a_little()


@pytest.mark.parametrize(
    ("where", "name", "message"),
    [
        (ledger, "leave", "request count"),
        (ledger, "release", "uncached"),
        (RadixTree, "unpin", "pins"),
        (Scheduler, "_resize", "free tokens"),
    ],
)
def test_a_planted_leak_is_found(monkeypatch: pytest.MonkeyPatch, where: type | ModuleType, name: str, message: str):
    monkeypatch.setattr(where, name, lambda *arguments, **options: None)
    with pytest.raises(AssertionError, match=message):
        live_a_little()


def test_a_finish_that_forgets_its_pin_keeps_the_prefix_for_ever(monkeypatch: pytest.MonkeyPatch):
    """Why `check` looks at pins: nothing else would tell."""
    monkeypatch.setattr(RadixTree, "unpin", lambda *arguments: None)
    scheduler = Scheduler()
    scheduler.add_worker("a", kv_tokens=4, now=0.0)
    for id in range(3):
        scheduler.submit(id, [id] * 4, now=0.0)
        scheduler.finish(id, now=0.0)
    assert scheduler.snapshot().tree_tokens == 12
    assert scheduler.tree.match(pack([0] * 4)).tokens == 4
