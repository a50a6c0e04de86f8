from __future__ import annotations

from collections.abc import Callable

import pytest

from preble.core.policies.baselines.aibrix_prefix import AibrixPrefix
from preble.core.scheduler import Scheduler
from tests.core.policies.conftest import ask, asked, busy, send

NewScheduler = Callable[..., Scheduler]

PROMPT = list(range(1000))


def test_the_best_match_wins_and_without_any_the_fewest_requests(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", policy="aibrix-prefix", kv_tokens=10_000)
    send(scheduler, "a", PROMPT[:300], state="done")
    send(scheduler, "b", PROMPT[:600], state="done")
    busy(scheduler, b=1, c=1)
    assert ask(scheduler, PROMPT) == ("b", "prefix")
    assert ask(scheduler, [9999]) == ("a", "least requests")
    scheduler.remove_worker("b", now=0.0)
    assert ask(scheduler, PROMPT) == ("a", "prefix")


def test_matches_are_compared_by_whole_percents(new_scheduler: NewScheduler):
    """60.1 and 60.9 percent are equal, and b has fewer requests; 61 is more."""
    scheduler = new_scheduler("ab", policy="aibrix-prefix", kv_tokens=10_000)
    send(scheduler, "a", PROMPT[:609], state="done")
    send(scheduler, "b", PROMPT[:601], state="done")
    busy(scheduler, a=1)
    assert ask(scheduler, PROMPT)[0] == "b"


def test_equal_matches_and_loads_are_drawn(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", policy="aibrix-prefix", kv_tokens=10_000)
    for worker in "ab":
        send(scheduler, worker, PROMPT, state="done")
    assert asked(scheduler, PROMPT) == {"a", "b"}


@pytest.mark.parametrize(("requests", "worker"), [(8, "a"), (9, "b")])
def test_far_apart_only_the_idlest_may_match(new_scheduler: NewScheduler, requests: int, worker: str):
    """With 8 against 0 a is within one deviation (5.7) of the mean (4); with 9 it is not asked."""
    scheduler = new_scheduler("ab", policy="aibrix-prefix", kv_tokens=10_000)
    send(scheduler, "a", PROMPT, state="done")
    busy(scheduler, a=requests)
    assert ask(scheduler, PROMPT)[0] == worker


@pytest.mark.parametrize(("loads", "worker"), [((3, 2, 0), "a"), ((4, 1, 0), "b"), ((4, 0, 0), "b")])
def test_a_match_too_far_above_the_mean_is_passed_over(
    new_scheduler: NewScheduler, loads: tuple[int, ...], worker: str
):
    """Mean and sample deviation: 1.67 + 1.53 = 3.2, 1.67 + 2.08 = 3.75, 1.33 + 2.31 = 3.64."""
    scheduler = new_scheduler("abc", policy="aibrix-prefix", kv_tokens=10_000)
    send(scheduler, "a", PROMPT, state="done")
    send(scheduler, "b", PROMPT[:200], state="done")
    busy(scheduler, **dict(zip("abc", loads, strict=True)))
    assert ask(scheduler, PROMPT) == (worker, "prefix")


def test_the_index_is_bounded_over_all_workers(new_scheduler: NewScheduler):
    policy = AibrixPrefix(limit=250)
    scheduler = new_scheduler("ab", policy=policy, kv_tokens=10_000)
    for number in range(20):
        send(scheduler, "ab"[number % 2], [number] * 100)
        policy.check()
    assert policy.index.tokens == 250
    assert ask(scheduler, [19] * 100)[1] == "prefix"
    assert ask(scheduler, [0] * 100)[1] == "least requests"
