"""What later requests lose when a worker is taken, and how many of them are expected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.core.policies.e2.future_delay import MEMORY, NO_DELAY, Arrivals, FutureDelay

loads = st.lists(st.floats(0, 50), min_size=1, max_size=10).map(np.array)
prefills = st.floats(1e-3, 50)
expected = st.builds(FutureDelay, rate=st.floats(0.01, 10), spread=st.floats(0.01, 10))


@given(loads, prefills, expected)
def test_nobody_waits_longer_than_the_prefill_lasts(load, prefill, future_delay):
    lost = future_delay.seconds(load, np.full_like(load, prefill))
    assert (lost >= 0).all()
    assert (lost <= future_delay.rate * prefill * prefill * (1 + 1e-6)).all()


@given(loads, prefills, expected)
def test_the_lighter_a_worker_the_more_is_lost(load, prefill, future_delay):
    lost = future_delay.seconds(load, np.full_like(load, prefill))
    assert (np.diff(lost[np.argsort(load)]) <= 1e-9).all()


@given(st.integers(1, 9), prefills, expected)
def test_the_more_workers_are_as_light_the_less_is_lost(others, prefill, future_delay):
    def lost(alike: int) -> float:
        return future_delay.seconds(np.zeros(alike), np.full(alike, prefill))[0]

    assert lost(others + 1) < lost(others)


def test_those_who_come_to_the_only_worker_wait_all_of_it():
    assert FutureDelay(3.0, 1.0).seconds(np.array([5.0]), np.array([2.0])) == pytest.approx([3.0 * 2.0 * 2.0])


def test_workers_that_take_nobody_lose_nothing():
    lost = FutureDelay(3.0, 1.0).seconds(np.array([np.inf, 1.0]), np.array([2.0, 2.0]))
    assert lost == pytest.approx([0.0, 12.0])


def test_where_nobody_is_expected_nothing_is_lost():
    assert (NO_DELAY.seconds(np.zeros(2), np.ones(2)) == 0).all()
    assert Arrivals().future_delay(2, 2, 0.0) == NO_DELAY


def regular(rate: float, work: float) -> tuple[Arrivals, float]:
    """Arrivals that came regularly for long, and when the last one came."""
    arrivals, times = Arrivals(), np.arange(0, 10 * MEMORY, 1 / rate)
    for now in times:
        arrivals.came(work, float(now))
    return arrivals, float(times[-1])


def test_the_rate_is_that_of_the_last_while_and_is_forgotten():
    arrivals, now = regular(4.0, 0.5)
    assert arrivals.rate(now) == pytest.approx(4.0, rel=0.01)
    assert arrivals.rate(now + MEMORY) == pytest.approx(4.0 / np.e, rel=0.01)


def test_the_work_is_a_running_mean():
    arrivals, now = regular(4.0, 0.5)
    for _ in range(200):
        arrivals.came(2.0, now)
    assert arrivals.work == pytest.approx(2.0, rel=0.01)


def test_later_requests_count_by_the_square_of_the_load():
    half, now = regular(4.0, 0.5)
    future_delay = half.future_delay(4, 4, now)
    assert future_delay.rate == pytest.approx(4.0 * 0.5**2, rel=0.02)
    assert future_delay.spread == pytest.approx(1.0)
    assert half.future_delay(1, 4, now).rate == pytest.approx(future_delay.rate / 4), (
        "a part of the workers gets its part of them"
    )
    assert half.future_delay(1, 1, now).rate == pytest.approx(4.0, rel=0.01), "the load is at most all of the time"
