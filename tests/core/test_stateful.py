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
from preble.core.fleet import Fleet
from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.tokens import pack
from preble.tree import RadixTree
from preble.wait_queue.disciplines import Discipline
from tests.core.life import Life

tokens = st.lists(st.integers(0, 1), min_size=1, max_size=12)
outputs = st.lists(st.integers(0, 1), min_size=1, max_size=6)
indices = st.integers(0, 99)
names = st.sampled_from(["", "x", "y"])


class Lives(RuleBasedStateMachine, Life):
    """Lives of small prompts and caches, in any order that hypothesis thinks of."""

    @initialize(policy=st.sampled_from(sorted(POLICIES)), seed=indices)
    def start(self, policy: str, seed: int) -> None:
        self.begin(policy, seed)
        options = {"reports_evictions": True, "reports_steps": True, "cost": "small-cpu", "discipline": "fcfs"}
        self.add_worker(kv_tokens=1000, **options)
        self.add_worker(kv_tokens=20, block_size=4, cost="mistral-7b-a6000", discipline="response-ratio")

    add = rule(
        names=st.sampled_from([None, None, ("x",), ("", "y")]),
        kv_tokens=st.sampled_from([6, 20, 1000]),
        block_size=st.sampled_from([1, 4]),
        cost=st.sampled_from(["mistral-7b-a6000", "small-cpu"]),
        reports_evictions=st.booleans(),
        reports_steps=st.booleans(),
        discipline=st.sampled_from(get_args(Discipline)),
        context_limit=st.sampled_from([None, None, 5, 12]),
    )(Life.add_worker)
    submit = rule(
        prompt=tokens, max_tokens=st.integers(0, 8), tenant=names, namespace=names, shunned=st.none() | indices
    )(Life.submit)
    rebalance = rule()(Life.rebalance)

    some_worker = precondition(lambda self: self.workers)
    remove_worker = some_worker(rule(index=indices)(Life.remove_worker))
    drain_worker = some_worker(rule(index=indices)(Life.drain_worker))
    adjust_worker = some_worker(
        rule(index=indices, paused=st.booleans(), penalty=st.sampled_from([0.0, 3.0]))(Life.adjust_worker)
    )
    evicted = some_worker(rule(index=indices, prompt=tokens, keep=st.integers(0, 12))(Life.evicted))
    cleared = some_worker(rule(index=indices, prompt=st.just(b""), keep=st.just(0))(Life.evicted))
    observe = some_worker(
        rule(index=indices, new=st.integers(1, 3000), decodes=st.integers(0, 4), seconds=st.floats(0.0, 10.0))(
            Life.observe
        )
    )

    some_request = precondition(lambda self: self.placed)
    started = some_request(rule(index=indices, cached=st.none() | st.integers(0, 12))(Life.started))
    first_token = some_request(rule(index=indices)(Life.first_token))
    finish = some_request(rule(index=indices, output=outputs)(Life.finish))
    cancel = some_request(rule(index=indices, output=st.just([]))(Life.finish))
    move = some_request(rule()(Life.move))

    some_orphan = precondition(lambda self: self.orphans)
    submit_again = some_orphan(rule(prompt=tokens)(Life.submit_again))
    give_up = some_orphan(rule(output=st.just([]) | outputs)(Life.give_up))

    the_books_are_right = invariant()(Life.check)

    def teardown(self) -> None:
        if hasattr(self, "scheduler"):
            self.end()


Lives.TestCase.settings = settings(stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow])
TestLives = Lives.TestCase


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (ledger, "leave", lambda fleet, request: None),
        (ledger, "release", lambda fleet, request: None),
        (Scheduler, "_resize", lambda self, slot, now: None),
        (RadixTree, "unpin", lambda self, node, worker: None),
        (Fleet, "serving", lambda self, *request: self),
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
        run_state_machine_as_test(Lives, settings=settings(quick, stateful_step_count=50))


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
