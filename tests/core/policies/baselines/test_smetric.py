from __future__ import annotations

from collections.abc import Callable

import pytest

from preble.core.policies.baselines.smetric import ENOUGH, Smetric
from preble.core.scheduler import Scheduler
from tests.core.conftest import LINEAR
from tests.core.policies.conftest import ask, asked, busy, send

NewScheduler = Callable[..., Scheduler]

TURN = list(range(100))


def test_a_later_turn_returns_however_many_requests_are_there(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab", policy="smetric")
    send(scheduler, "a", TURN, state="done", session="s")
    busy(scheduler, a=5)
    assert ask(scheduler, [*TURN, 1, 2], session="s") == ("a", "session")
    assert ask(scheduler, [*TURN, 3], session="t") == ("b", "least work times requests"), "a first turn"
    assert ask(scheduler, [*TURN, 4]) == ("b", "least work times requests"), "no session"


@pytest.mark.parametrize(("shared", "worker"), [(50, "b"), (51, "a")])
def test_a_session_whose_history_changed_is_free(new_scheduler: NewScheduler, shared: int, worker: str):
    """More than half of the 100 tokens of the turn before must still be there."""
    scheduler = new_scheduler("ab", policy="smetric")
    send(scheduler, "a", TURN, state="done", session="s")
    busy(scheduler, a=5)
    assert ask(scheduler, TURN[:shared] + [7] * 200, session="s")[0] == worker


def slow(scheduler: Scheduler, worker: str, samples: int) -> None:
    """Show so many first tokens that came 10 s after 100 new tokens were sent: 10 tokens a second."""
    for number in range(samples):
        id = f"{worker}{number}"
        scheduler.submit(id, [20_000 + number + 100 * ord(worker)] * 100, worker=worker, now=0.0)
        scheduler.first_token(id, now=10.0)
        scheduler.finish(id, now=10.0)


@pytest.mark.parametrize(("a", "b", "worker"), [(ENOUGH, 0, "b"), (ENOUGH - 1, 0, "a"), (ENOUGH, ENOUGH, "a")])
def test_a_slow_worker_loses_its_session_to_one_that_is_not(new_scheduler: NewScheduler, a: int, b: int, worker: str):
    """20 new tokens at 10 a second are more than 1.0075 s; unless the rate is unknown, or nobody is faster."""
    scheduler = new_scheduler("ab", policy="smetric", kv_tokens=10_000)
    send(scheduler, "a", TURN, state="done", session="s")
    slow(scheduler, "a", a)
    slow(scheduler, "b", b)
    busy(scheduler, a=1)
    assert ask(scheduler, TURN + [7] * 20, session="s")[0] == worker


@pytest.mark.parametrize(("new", "worker"), [(11, "a"), (12, "b")])
def test_the_limit_grows_with_the_prompt(new_scheduler: NewScheduler, new: int, worker: str):
    """10 tokens a second: 11 tokens take 1.1 s, within 1 + 0.001 x 111 s; 12 take 1.2 s, not within 1.112 s."""
    scheduler = new_scheduler("ab", policy=Smetric(per_token=0.001), kv_tokens=10_000)
    send(scheduler, "a", TURN, state="done", session="s")
    slow(scheduler, "a", ENOUGH)
    busy(scheduler, a=1)
    assert ask(scheduler, TURN + [7] * new, session="s")[0] == worker


def test_a_new_worker_is_not_taken_for_as_slow_as_the_one_before_at_its_slot(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab", policy="smetric", kv_tokens=10_000)
    slow(scheduler, "a", ENOUGH)
    scheduler.remove_worker("a", now=0.0)
    scheduler.add_worker("c", kv_tokens=10_000, cost=LINEAR, now=0.0)
    send(scheduler, "c", TURN, state="done", session="s")
    busy(scheduler, c=1)
    assert ask(scheduler, TURN + [7] * 20, session="s")[0] == "c"


def test_work_is_multiplied_by_requests(new_scheduler: NewScheduler):
    """a: (100 waiting + 10) x 1; b: 10 x 2; with 2 more on b: 10 x 12 against 110."""
    scheduler = new_scheduler("ab", policy="smetric")
    send(scheduler, "a", TURN)
    busy(scheduler, b=2)
    assert ask(scheduler, [5] * 10)[0] == "b"
    busy(scheduler, b=10)
    assert ask(scheduler, [6] * 10)[0] == "a"


def test_equals_are_taken_in_turn(new_scheduler: NewScheduler):
    """An idle worker's product is 0, whatever it holds."""
    scheduler = new_scheduler("abc", policy="smetric")
    assert [ask(scheduler, TURN)[0] for _ in range(5)] == ["a", "b", "c", "a", "b"]


def test_work_is_released_at_the_first_token_or_the_end(new_scheduler: NewScheduler):
    policy = Smetric()
    scheduler = new_scheduler("ab", policy=policy)
    computed, cancelled = send(scheduler, "a", TURN), send(scheduler, "a", [*TURN, 1, 2, 3])
    busy(scheduler, b=2)
    assert asked(scheduler, [5] * 10) == {"b"}, "103 outstanding on a, and 10 on both, times two requests"
    scheduler.first_token(computed, now=2.0)
    scheduler.finish(computed, now=3.0)
    scheduler.finish(cancelled, now=3.0)
    busy(scheduler, a=2)
    assert {ask(scheduler, [number] * 10)[0] for number in range(4)} == {"a", "b"}
    policy.check()


def test_only_first_tokens_teach(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab", policy="smetric", kv_tokens=10_000)
    send(scheduler, "a", TURN, state="done", session="s")
    for id in range(ENOUGH):
        scheduler.submit(id, [20_000 + id] * 100, worker="a", now=0.0)
        scheduler.finish(id, now=10.0)
    busy(scheduler, a=1)
    assert ask(scheduler, TURN + [7] * 20, session="s")[0] == "a", "nothing is known of its rate"


@pytest.mark.parametrize(("new", "worker"), [(10, "a"), (11, "b")])
def test_the_rate_is_the_ninetieth_percentile(new_scheduler: NewScheduler, new: int, worker: str):
    """Of 11 rates 1 to 11, the tenth: 10 tokens take the second that is the limit here, 11 take longer."""
    scheduler = new_scheduler("ab", policy=Smetric(per_token=0.0), kv_tokens=10_000)
    scheduler.submit("turn", TURN, session="s", worker="a", now=0.0)
    scheduler.finish("turn", now=0.0)
    for rate in range(1, 12):
        scheduler.submit(rate, [1000 + rate] * rate, worker="a", now=0.0)
        scheduler.first_token(rate, now=1.0)
    assert ask(scheduler, TURN + [7] * new, session="s")[0] == worker
