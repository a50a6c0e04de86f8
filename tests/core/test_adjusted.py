"""Workers that are paused, penalized or excluded, and workers of different context limits."""

from __future__ import annotations

import pytest

from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.errors import ConfigurationError, ContextLengthError, NamespaceNotServedError, NoWorkersError
from preble.replay import replay
from tests.core.conftest import LINEAR

PROMPT = list(range(50))


def scheduler_of(policy: str = "e2", log: list[bytes] | None = None, **contexts: int | None) -> Scheduler:
    scheduler = Scheduler(policy, log=None if log is None else log.append)
    for worker, limit in contexts.items():
        scheduler.add_worker(worker, kv_tokens=10_000, cost=LINEAR, context_limit=limit, now=0.0)
    return scheduler


def chosen(scheduler: Scheduler, requests: int = 12, length: int = 50, **options: object) -> set[str]:
    """The workers that get these requests, which share nothing."""
    start = len(scheduler.snapshot().workers) * 1000 + scheduler.snapshot().requests
    placements = [
        scheduler.submit(f"{start + number}", [start + number, *range(length - 1)], now=1.0, **options)
        for number in range(requests)
    ]
    return {placement.worker for placement in placements}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_paused_worker_gets_nothing_until_it_goes_on(policy: str):
    scheduler = scheduler_of(policy, a=None, b=None)
    scheduler.adjust_worker("a", paused=True, now=0.0)
    assert chosen(scheduler) == {"b"}
    scheduler.adjust_worker("a", now=0.0)
    scheduler.adjust_worker("b", paused=True, now=0.0)
    assert chosen(scheduler) == {"a"}
    scheduler.check()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_an_excluded_worker_is_not_chosen_though_it_holds_the_prefix(policy: str):
    scheduler = scheduler_of(policy, a=None, b=None)
    scheduler.submit("first", PROMPT, worker="a", now=0.0)
    scheduler.finish("first", output=[1, 2], now=0.5)
    assert scheduler.submit("again", PROMPT, excluded=["a", "unknown"], now=1.0).worker == "b"


def test_requests_in_flight_on_a_paused_worker_go_on():
    scheduler = scheduler_of(a=None, b=None)
    scheduler.submit("1", PROMPT, worker="a", now=0.0)
    scheduler.adjust_worker("a", paused=True, now=0.1)
    scheduler.first_token("1", now=0.2)
    scheduler.finish("1", output=[1], now=0.3)
    assert scheduler.snapshot().workers[0].load == 0.0


def test_a_penalty_counts_as_seconds_of_load():
    """What a worker holds is worth as much as computing it; a penalty of more than that outweighs it."""
    scheduler = scheduler_of(a=None, b=None)
    scheduler.submit("first", PROMPT, worker="a", now=0.0)
    scheduler.finish("first", output=[1, 2], now=0.5)
    assert scheduler.submit("cached", PROMPT, now=1.0).worker == "a"
    scheduler.finish("cached", now=1.5)
    scheduler.adjust_worker("a", penalty=1000.0, now=2.0)
    assert scheduler.submit("penalized", PROMPT, now=3.0).worker == "b"
    loads = {candidate.worker: candidate.load for candidate in scheduler.explain("penalized").candidates}
    assert loads["a"] == 1000.0 + loads["b"]


def test_nobody_takes_a_request_while_all_are_paused_or_excluded():
    scheduler = scheduler_of(a=None, b=None)
    scheduler.adjust_worker("a", paused=True, now=0.0)
    with pytest.raises(NoWorkersError):
        scheduler.submit("1", PROMPT, excluded=["b"], now=0.0)
    scheduler.adjust_worker("b", paused=True, now=0.0)
    with pytest.raises(NoWorkersError):
        scheduler.submit("1", PROMPT, now=0.0)
    assert scheduler.snapshot().requests == 0


def test_a_namespace_whose_worker_is_paused_is_served_nevertheless():
    scheduler = scheduler_of(a=None)
    scheduler.add_worker("x", kv_tokens=1000, namespaces=["x"], now=0.0)
    scheduler.adjust_worker("a", paused=True, now=0.0)
    scheduler.adjust_worker("x", paused=True, now=0.0)
    with pytest.raises(NoWorkersError) as caught:
        scheduler.submit("1", PROMPT, namespace="x", now=0.0)
    assert not isinstance(caught.value, NamespaceNotServedError)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_prompt_goes_where_it_fits(policy: str):
    scheduler = scheduler_of(policy, short=100, long=1000)
    assert chosen(scheduler, length=150, max_tokens=10) == {"long"}
    assert chosen(scheduler, length=90, max_tokens=20) == {"long"}


def test_the_longest_context_serves_what_is_longer_than_all_with_its_output():
    scheduler = scheduler_of(short=100, long=1000)
    assert chosen(scheduler, length=990, max_tokens=100) == {"long"}
    with pytest.raises(ContextLengthError, match="1000"):
        scheduler.submit("too long", list(range(1000)), now=0.0)


def test_a_prompt_waits_for_the_worker_that_it_fits():
    scheduler = scheduler_of(short=100, long=1000)
    scheduler.adjust_worker("long", paused=True, now=0.0)
    with pytest.raises(NoWorkersError):
        scheduler.submit("1", list(range(150)), now=0.0)
    assert chosen(scheduler, requests=1, max_tokens=10) == {"short"}


def test_a_context_limit_below_one_is_refused():
    with pytest.raises(ConfigurationError, match="context_limit"):
        scheduler_of(a=0)


def test_pauses_penalties_and_exclusions_are_replayed():
    log: list[bytes] = []
    scheduler = scheduler_of(log=log, a=None, b=100, c=None)
    scheduler.adjust_worker("c", paused=True, now=0.0)
    chosen(scheduler, length=120)
    scheduler.adjust_worker("c", penalty=0.25, now=1.0)
    chosen(scheduler, excluded=["a"])
    again = replay(log)
    assert (again.requests, again.differing) == (24, 0)
