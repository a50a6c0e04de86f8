"""SGLang's rule, and the gate that took its place in SMG. Both see blocks of 16 tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preble.core.policies.baselines.sglang_cache_aware import SglangCacheAware
from preble.core.policies.baselines.smg_gate import SmgGate
from preble.core.scheduler import Scheduler
from tests.core.conftest import LINEAR
from tests.core.policies.conftest import ask, asked, busy, send

NewScheduler = Callable[..., Scheduler]

PROMPT = list(range(160))
RULES = [SglangCacheAware, SmgGate]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("matched", "why"), [(48, "miss"), (63, "miss"), (64, "prefix")])
def test_a_match_counts_above_the_threshold(new_scheduler: NewScheduler, rule: type, matched: int, why: str):
    """Whole blocks only: 63 tokens are 48, which is 0.3 of the prompt and so not more."""
    scheduler = new_scheduler("ab", policy=rule(), kv_tokens=10_000)
    send(scheduler, "a", PROMPT[:matched])
    assert ask(scheduler, PROMPT) == ("a" if why == "prefix" else "b", why)


@pytest.mark.parametrize("rule", RULES)
def test_a_miss_goes_to_fewest_requests_then_fewest_ever_then_the_lowest_slot(new_scheduler: NewScheduler, rule: type):
    scheduler = new_scheduler("abc", policy=rule())
    fresh = ([token] * 16 for token in range(1000, 2000))
    assert [ask(scheduler, next(fresh))[0] for _ in range(4)] == ["a", "b", "c", "a"]
    busy(scheduler, b=1)
    assert [ask(scheduler, next(fresh))[0] for _ in range(3)] == ["c", "a", "c"]
    scheduler.remove_worker("c", now=0.0)
    scheduler.add_worker("d", kv_tokens=1000, cost=LINEAR, now=0.0)
    assert ask(scheduler, next(fresh)) == ("d", "miss"), "a new worker at its slot starts at none"


@pytest.mark.parametrize("rule", RULES)
def test_it_believes_what_it_sent_not_what_the_engine_has(new_scheduler: NewScheduler, rule: type):
    scheduler = new_scheduler("ab", policy=rule(), reports_evictions=True)
    id = send(scheduler, "a", PROMPT)
    scheduler.finish(id, now=0.0)
    scheduler.evicted("a", b"", 0, now=0.0)
    busy(scheduler, a=3)
    assert ask(scheduler, PROMPT) == ("a", "prefix")


@pytest.mark.parametrize("rule", RULES)
def test_a_lost_worker_is_forgotten(new_scheduler: NewScheduler, rule: type):
    scheduler = new_scheduler("ab", policy=rule())
    send(scheduler, "a", PROMPT, state="done")
    scheduler.remove_worker("a", now=0.0)
    scheduler.add_worker("c", kv_tokens=1000, cost=LINEAR, now=0.0)
    assert ask(scheduler, PROMPT)[1] == "miss", "nor does the next worker at its slot inherit anything"


@pytest.mark.parametrize("rule", RULES)
def test_a_holder_that_takes_no_more_requests_is_not_chosen(new_scheduler: NewScheduler, rule: type):
    scheduler = new_scheduler("abc", policy=rule())
    send(scheduler, "a", PROMPT, state="done")
    scheduler.drain_worker("a", now=0.0)
    assert ask(scheduler, PROMPT)[0] == "b", "nobody eligible holds it: the first"
    scheduler.drain_worker("b", now=0.0)
    assert ask(scheduler, PROMPT)[0] == "c"


@pytest.mark.parametrize("rule", RULES)
def test_the_index_is_cut_at_intervals(new_scheduler: NewScheduler, rule: type):
    policy = rule(interval=10.0, limit=64)
    scheduler = new_scheduler("a", policy=policy, kv_tokens=10_000)
    for now in range(10):
        scheduler.submit(now, [now] * 32, now=float(now))
    assert policy.index.tree.held_tokens(0) == 320
    scheduler.submit(10, [10] * 32, now=10.0)
    assert policy.index.tree.held_tokens(0) == 64
    assert ask(scheduler, [10] * 32)[1] == "prefix"
    assert ask(scheduler, [8] * 32)[1] == "miss", "the least recently used went"


def test_it_follows_who_was_first(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", policy=SglangCacheAware())
    send(scheduler, "b", PROMPT[:96])
    for worker in "abc":
        send(scheduler, worker, PROMPT)
    busy(scheduler, a=5, b=3)
    assert ask(scheduler, PROMPT[:96]) == ("b", "prefix"), "b was first here"
    assert ask(scheduler, PROMPT) == ("a", "prefix"), "and a with the rest"
    scheduler.remove_worker("a", now=0.0)
    assert ask(scheduler, PROMPT) == ("b", "prefix"), "any other holder"


@pytest.mark.parametrize(
    ("a", "b", "why"), [(3, 0, "imbalance"), (2, 0, "prefix"), (8, 5, "imbalance"), (9, 6, "prefix"), (7, 5, "prefix")]
)
def test_imbalance_needs_both_a_difference_and_a_ratio(new_scheduler: NewScheduler, a: int, b: int, why: str):
    """More than 2 apart, and more than 1.5 times: 9 is not more than 1.5 x 6."""
    scheduler = new_scheduler("ab", policy=SglangCacheAware(absolute=2, relative=1.5))
    send(scheduler, "a", PROMPT, state="done")
    busy(scheduler, a=a, b=b)
    assert ask(scheduler, PROMPT) == ("a" if why == "prefix" else "b", why)


def test_imbalance_drops_affinity_for_everybody(new_scheduler: NewScheduler):
    """The known fault of the rule: the load of a sends b's own prompts away from b, to idle c."""
    scheduler = new_scheduler("abc", policy=SglangCacheAware(absolute=2))
    send(scheduler, "b", PROMPT, state="done")
    busy(scheduler, a=9, b=1)
    assert ask(scheduler, PROMPT) == ("c", "imbalance")


def test_the_gate_looks_at_the_worker_picked_only(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", policy=SmgGate(absolute=2))
    send(scheduler, "b", PROMPT, state="done")
    busy(scheduler, a=9, b=1)
    assert ask(scheduler, PROMPT) == ("b", "prefix")


def test_of_several_holders_the_least_busy_is_taken(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abcd", policy=SmgGate())
    for worker in "abc":
        send(scheduler, worker, PROMPT, state="done")
    busy(scheduler, a=1)
    assert asked(scheduler, PROMPT) == {"b", "c"}, "a tie, drawn"


@pytest.mark.parametrize(("a", "b", "why"), [(3, 0, "spill"), (2, 0, "prefix"), (6, 3, "prefix"), (8, 3, "prefix")])
def test_a_spill_needs_both_a_difference_and_a_ratio(new_scheduler: NewScheduler, a: int, b: int, why: str):
    """Means 1.5, 1, 4.5 and 5.5: 2 is not above 1 + 1, 6 not above 1.5 x 4.5, nor 8 above 1.5 x 5.5."""
    scheduler = new_scheduler("ab", policy=SmgGate(absolute=1, relative=1.5))
    send(scheduler, "a", PROMPT, state="done")
    busy(scheduler, a=a, b=b)
    assert ask(scheduler, PROMPT) == ("a" if why == "prefix" else "b", why)


def test_a_spill_makes_a_new_holder(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab", policy=SmgGate(absolute=1))
    send(scheduler, "a", PROMPT, state="done")
    busy(scheduler, a=3)
    assert [ask(scheduler, PROMPT) for _ in range(2)] == [("b", "spill"), ("b", "prefix")]
