from __future__ import annotations

import pytest

from bench.live.comparison import Measures
from bench.live.ratios import Rounds, figures, unpaused
from bench.live.side_by_side import HEADERS, rows
from preble.simulate import Request


def measures(ttft: float) -> Measures:
    return Measures(ttft, ttft, ttft, 1.0, 1.0, 0.5, 1.0)


def test_ratios_are_taken_within_each_round():
    rounds = Rounds(
        {("w", "e2"): [measures(1.0), measures(10.0)], ("w", "random"): [measures(2.0), measures(40.0)]}, {}
    )
    found = figures(rounds)
    assert found.metrics["w_random_ttft_mean_over_e2"] == pytest.approx(3.0)  # of 2 and 4; not 21 / 5.5
    assert found.metrics["w_random_ttft_mean"] == pytest.approx(21.0)
    assert "w_e2_ttft_mean_over_e2" not in found.metrics


def test_rows_name_workload_and_policy_and_leave_out_ratios_of_the_base():
    rounds = Rounds({("w", "e2"): [measures(1.0)], ("w", "random"): [measures(2.0)]}, {"w": 3.0})
    ours, other = rows(rounds, figures(rounds))
    assert len(ours) == len(other) == len(HEADERS)
    assert ours[:5] == ("w", "e2", "1.000", "", "")
    assert other[:5] == ("w", "random", "2.000", "2.00", "2.00-2.00")


def test_without_the_base_there_are_figures_and_no_ratios():
    found = figures(Rounds({("w", "random"): [measures(2.0)]}, {}))
    assert not [name for name in found.metrics if "_over_" in name]


def test_unpaused_keeps_so_many_under_way():
    opened = [Request(arrival=float(n), segments=((n, 1),), output_tokens=1) for n in range(6)]
    made = unpaused(opened, 2)
    assert [request.arrival for request in made] == [0.0, 0.0, None, None, None, None]
    assert [request.segments for request in made] == [request.segments for request in opened]


def test_sessions_stay_and_have_no_pauses():
    first = Request(arrival=7.0, segments=((1, 1),), output_tokens=1, session="a")
    second = Request(segments=((1, 1),), output_tokens=1, session="a", turn=1, gap=3.0)
    assert [(one.arrival, one.session, one.gap) for one in unpaused([first, second], 2)] == [
        (0.0, "a", 0.0),
        (None, "a", 0.0),
    ]
