"""Copies of hot prefixes: with linear workers a token is a millisecond."""

from __future__ import annotations

import pytest

from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.policies.e2.policy import E2
from preble.core.policies.e2.replication import HALF_LIFE
from preble.core.scheduler import Scheduler
from preble.tokens import pack
from tests.core.conftest import FLAT, LINEAR

MANUAL = list(range(1, 201))


def crowd(scheduler: Scheduler, requests: int, *, at: float = 0.0, first: int = 0) -> None:
    """Questions about the manual that go to `a`, one after the other, while `a` has a long prompt to prefill."""
    for id in range(first, first + requests):
        scheduler.submit(id, [*MANUAL, 1000 + id], max_tokens=0, now=at)
        scheduler.first_token(id, now=at)
        scheduler.finish(id, now=at)


@pytest.fixture
def loaded(new_scheduler) -> Scheduler:
    """Worker `a` has the manual, with two continuations, and 0.3 s of other work: a miss would count 0.5 s."""
    scheduler = new_scheduler("ab", kv_tokens=10_000, policy=E2(**FLAT))
    for id in ("x", "y"):
        scheduler.submit(id, [*MANUAL, ord(id)], max_tokens=0, worker="a", now=0.0)
        scheduler.first_token(id, now=0.0)
        scheduler.finish(id, now=0.0)
    scheduler.submit("other", [7] * 300, max_tokens=0, worker="a", now=0.0)
    return scheduler


def test_a_copy_is_made_when_the_avoidable_seconds_exceed_what_it_costs(loaded: Scheduler):
    crowd(loaded, 1)
    assert loaded.copies(0.0) == [], "0.3 s were avoidable, a copy costs 2.5 x 0.2 s"
    crowd(loaded, 1, first=1)
    assert loaded.copies(0.0) == [Copy(pack(MANUAL), "b")]
    assert loaded.copies(0.0) == [], "once"


def test_what_was_paid_fades(loaded: Scheduler):
    crowd(loaded, 1)
    crowd(loaded, 1, first=1, at=HALF_LIFE)
    assert loaded.copies(HALF_LIFE) == [], "0.3 / 2 + 0.3 s"
    crowd(loaded, 1, first=2, at=HALF_LIFE)
    assert len(loaded.copies(HALF_LIFE)) == 1


def test_nothing_is_copied_where_there_is_no_free_room():
    scheduler = Scheduler(E2(**FLAT))
    scheduler.add_worker("a", kv_tokens=10_000, cost=LINEAR, now=0.0)
    scheduler.submit("other", [7] * 300, max_tokens=0, now=0.0)
    crowd(scheduler, 1)
    scheduler.add_worker("b", kv_tokens=150, cost=LINEAR, now=0.0)
    crowd(scheduler, 3, first=1)
    assert scheduler.copies(0.0) == []


def test_nothing_is_copied_to_where_it_is(loaded: Scheduler):
    crowd(loaded, 2)
    loaded.submit("copy", MANUAL, max_tokens=1, worker="b", now=0.0)
    assert loaded.copies(0.0) == []


@pytest.mark.parametrize("whose", [{"namespace": "adapter"}, {"tenant": "someone"}])
def test_prompts_of_a_namespace_or_a_tenant_are_left_alone(loaded: Scheduler, whose):
    for id in range(5):
        worker = "a" if id == 0 else None
        loaded.submit(id, [*MANUAL, 1000 + id], max_tokens=0, worker=worker, now=0.0, **whose)
        loaded.first_token(id, now=0.0)
        loaded.finish(id, now=0.0)
    assert loaded.copies(0.0) == []


def test_without_it_nothing_is_copied(new_scheduler):
    scheduler = new_scheduler("ab", kv_tokens=10_000, policy=E2(**FLAT, replicates=False))
    scheduler.submit("other", [7] * 300, max_tokens=0, worker="a", now=0.0)
    crowd(scheduler, 9)
    assert scheduler.copies(0.0) == []


def test_a_policy_without_copies_has_none(new_scheduler):
    assert new_scheduler("a", policy="round-robin").copies(0.0) == []


def test_a_copy_that_waits_is_not_moved(loaded: Scheduler):
    crowd(loaded, 2)
    (copy,) = loaded.copies(0.0)
    loaded.submit("big", [8] * 5000, max_tokens=0, worker="b", now=0.0)
    loaded.submit("copy", copy.tokens, max_tokens=1, priority=COPY_PRIORITY, worker=copy.target, now=0.0)
    loaded.submit("small", [5] * 10, max_tokens=0, worker="b", now=0.0)
    assert {move.id for move in loaded.rebalance(0.0)} == {"small"}
