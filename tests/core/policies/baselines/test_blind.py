"""Rules that know no prefixes: random, power of two choices, session hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from preble.core.policies.baselines.session_hash import SessionHash
from preble.core.scheduler import Scheduler
from tests.core.conftest import LINEAR
from tests.core.policies.conftest import ask, asked, busy

NewScheduler = Callable[..., Scheduler]


def test_random_takes_everyone_whatever_their_load(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", policy="random")
    busy(scheduler, a=9)
    seen = Counter(ask(scheduler, [1])[0] for _ in range(300))
    assert set(seen) == set("abc")
    assert max(seen.values()) < 140
    scheduler.drain_worker("b", now=0.0)
    scheduler.remove_worker("c", now=0.0)
    assert asked(scheduler, [1]) == {"a"}


def test_power_of_two_never_takes_the_busiest_of_three(new_scheduler: NewScheduler):
    """Any two of the three include one that is less busy; and the second is taken when the idlest is not drawn."""
    scheduler = new_scheduler("abc", policy="power-of-two")
    busy(scheduler, a=5, b=3)
    assert asked(scheduler, [1], 60) == {"b", "c"}


def test_power_of_two_takes_either_of_two_equals(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab", policy="power-of-two")
    busy(scheduler, a=2, b=2)
    assert asked(scheduler, [1]) == {"a", "b"}
    busy(scheduler, b=1)
    assert asked(scheduler, [1]) == {"a"}
    scheduler.remove_worker("a", now=0.0)
    assert asked(scheduler, [1]) == {"b"}


def homes(scheduler: Scheduler, sessions: int = 200) -> dict[str, str]:
    return {f"s{number}": ask(scheduler, [1], session=f"s{number}")[0] for number in range(sessions)}


def test_a_session_has_a_home_and_all_workers_get_sessions(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abcd", policy="session-hash")
    first = homes(scheduler)
    assert homes(scheduler) == first
    assert min(Counter(first.values()).values()) > 25


def test_homes_do_not_depend_on_the_process(new_scheduler: NewScheduler):
    """Python's own hash of text would give others with every start."""
    scheduler = new_scheduler("abcd", policy="session-hash")
    assert "".join(homes(scheduler, 12).values()) == HOMES


HOMES = "cabdadacbccb"


@pytest.mark.parametrize(
    ("here", "elsewhere", "stays"),
    [(1, 0, True), (2, 0, False), (5, 2, True), (6, 3, True), (6, 2, False)],
)
def test_a_session_leaves_a_worker_above_the_bound(new_scheduler: NewScheduler, here: int, elsewhere: int, stays: bool):
    """The bound with these loads: 1.25, 1.875, 5 (which is allowed), 6.25, 5.625."""
    scheduler = new_scheduler("ab", policy="session-hash")
    home, _ = ask(scheduler, [1], session="s")
    other = "b" if home == "a" else "a"
    busy(scheduler, **{home: here, other: elsewhere})
    expected = (home, "session") if stays else (other, "next on the ring")
    assert ask(scheduler, [1], session="s") == expected


def test_a_busy_neighbour_is_passed_over_too(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", policy="session-hash")
    home, _ = ask(scheduler, [1], session="s")
    busy(scheduler, **{home: 9})
    second, _ = ask(scheduler, [1], session="s")
    busy(scheduler, **{second: 9})
    third, _ = ask(scheduler, [1], session="s")
    assert {home, second, third} == set("abc")


def test_only_the_sessions_of_a_lost_worker_move(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abcd", policy="session-hash")
    before = homes(scheduler)
    scheduler.remove_worker("b", now=0.0)
    after = homes(scheduler)
    assert {session for session in before if before[session] != after[session]} == {
        session for session, home in before.items() if home == "b"
    }
    scheduler.add_worker("b", kv_tokens=1000, cost=LINEAR, now=0.0)
    assert homes(scheduler) == before, "and come back with it"
    scheduler.drain_worker("c", now=0.0)
    drained = homes(scheduler)
    assert all(drained[session] == home for session, home in before.items() if home != "c")
    assert "c" not in drained.values()


def test_without_a_session_the_head_of_the_prompt_is_the_key(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abcd", policy=SessionHash(head=10))
    head = [7] * 10
    assert len({ask(scheduler, [*head, tail])[0] for tail in range(20)}) == 1
    assert {ask(scheduler, [*head[1:], tail, 1])[0] for tail in range(40)} == set("abcd")
