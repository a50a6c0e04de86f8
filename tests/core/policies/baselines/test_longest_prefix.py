from __future__ import annotations

from collections.abc import Callable

from preble.core.scheduler import Scheduler
from tests.core.policies.conftest import ask, asked, busy, send

NewScheduler = Callable[..., Scheduler]

PROMPT = list(range(100))


def test_whoever_has_most_gets_it_however_busy(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", policy="longest-prefix")
    send(scheduler, "a", PROMPT[:60], state="done")
    send(scheduler, "b", PROMPT[:40], state="done")
    busy(scheduler, a=9)
    assert ask(scheduler, PROMPT) == ("a", "longest prefix")
    scheduler.remove_worker("a", now=0.0)
    assert ask(scheduler, PROMPT) == ("b", "longest prefix")


def test_a_prefix_in_flight_counts(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab", policy="longest-prefix")
    send(scheduler, "b", PROMPT)
    assert ask(scheduler, PROMPT)[0] == "b"


def test_equal_prefixes_go_to_the_fewest_requests(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", policy="longest-prefix")
    for worker in "ab":
        send(scheduler, worker, PROMPT, state="done")
    busy(scheduler, a=1)
    assert asked(scheduler, PROMPT) == {"b"}
    busy(scheduler, b=1)
    assert asked(scheduler, PROMPT) == {"a", "b"}, "the idle worker has less of it"


def test_with_nothing_cached_the_fewest_requests_decide(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab", policy="longest-prefix")
    busy(scheduler, a=1)
    assert ask(scheduler, PROMPT) == ("b", "nothing cached")
