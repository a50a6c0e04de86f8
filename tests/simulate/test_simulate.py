"""Virtual time: the scheduler and the engines of a live cluster, as fast as they can be computed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from preble.core.cost import CostModel
from preble.core.scheduler import Scheduler
from preble.errors import ConfigurationError
from preble.simulate import Request, SimOptions, bounds, segment_tokens, simulate
from preble.simulate.bounds import in_order
from preble.simulate.command import main
from preble.simulate.run import Run
from preble.simulate.traces import FORMATS
from preble.simulate.worker import Worker
from preble.tokens import unpack
from tests.policies import To

COST = CostModel(pieces=((0, 1.0, 1.0, 0.0),))
"""1 ms a step and 1 ms a token."""
OPTIONS = SimOptions(kv_tokens=4_000, block_size=4, max_batched_tokens=256, cost=COST)


def prompt(*segments: tuple[int, int], output: int = 1, **fields: Any) -> Request:
    return Request(segments=segments, output_tokens=output, **{"arrival": 0.0, **fields})


def traffic(requests: int = 60) -> list[Request]:
    """Two prefixes, far more than one worker can serve at once, and more than its cache holds."""
    return [
        prompt((index % 2, 600), (10 + index, 100), output=5, arrival=0.05 * index, max_tokens=50)
        for index in range(requests)
    ]


@pytest.fixture
def new_run() -> Iterator[Callable[..., Run]]:
    """Make runs; afterwards their books must be right, and empty."""
    made: list[Run] = []

    def new(requests: list[Request], policy: object = "e2", workers: int = 2, **options: float) -> Run:
        scheduler = Scheduler(policy)  # type: ignore[arg-type]
        engines = [Worker(index, OPTIONS) for index in range(workers)]
        for engine in engines:
            engine.join(scheduler, 0.0)
        delays = {"report_delay": 0.0, "rebalance_interval": 0.25, **options}
        made.append(Run(requests, scheduler, engines, progress=bool, **delays))  # type: ignore[arg-type]
        return made[-1]

    yield new
    for run in made:
        run.check()
        assert run.idle


def test_one_request_takes_what_the_cost_model_says():
    result = simulate([prompt((0, 100), output=3)], workers=1, options=OPTIONS)
    assert result.ttft[0] == pytest.approx(0.101)
    assert result.latency[0] == pytest.approx(0.101 + 2 * 0.002)
    assert result.summary().tpot_mean == pytest.approx(0.002)


def test_what_was_computed_is_cached():
    requests = [prompt((0, 100), (1, 20)), prompt((0, 100), (2, 20), arrival=1.0)]
    result = simulate(requests, workers=1, options=OPTIONS)
    assert result.cached.tolist() == [0, 100]
    assert result.ttft[1] == pytest.approx(0.021)
    assert result.summary().hit_ratio == pytest.approx(100 / 240)
    assert result.computed.tolist() == [142]


def test_the_same_arguments_give_the_same_result():
    first, again = (simulate(traffic(), options=OPTIONS, seed=3) for _ in range(2))
    assert np.array_equal(first.latency, again.latency)
    assert np.array_equal(first.worker, again.worker)


def test_the_order_of_the_workload_does_not_matter():
    requests = traffic()
    forward = simulate(requests, policy="round-robin", options=OPTIONS)
    backward = simulate(requests[::-1], policy="round-robin", options=OPTIONS)
    assert np.array_equal(forward.latency, backward.latency[::-1])


def test_policies_are_told_a_bound_and_never_the_length():
    policy = To(0)
    simulate([prompt((0, 9), output=2), prompt((1, 9), output=7), prompt((2, 9), max_tokens=40)], policy=policy)
    assert [query.max_tokens for query in policy.asked] == [7, 7, 40]


def test_a_next_turn_waits_for_the_answer_and_its_gap(new_run: Callable[..., Run]):
    turns = [
        prompt((0, 100), output=5, session="s", output_segment=7),
        prompt((0, 100), (7, 5), (1, 20), session="s", turn=1, arrival=None, gap=2.0),
    ]
    result = new_run(turns, workers=1).run()
    assert result.arrival[1] == pytest.approx(result.latency[0] + 2.0)


def test_a_next_turn_finds_what_was_generated(new_run: Callable[..., Run]):
    turns = [
        prompt((0, 99), output=9, session="s", output_segment=7),
        prompt((0, 99), (7, 9), (1, 20), session="s", turn=1, arrival=None),
        prompt((0, 99), (7, 9), (1, 20), arrival=9.0),
    ]
    result = new_run(turns, To(0)).run()
    assert result.cached.tolist() == [0, 104, 96], "in another session the segment is not what was generated"


def test_a_turn_waits_for_all_of_the_one_before(new_run: Callable[..., Run]):
    requests = [prompt((index, 50), output=1 + 9 * index, session="s") for index in range(3)]
    requests += [prompt((index, 50), session="s", turn=1, arrival=None) for index in range(2)]
    result = new_run(requests).run()
    assert result.arrival[3:].tolist() == [result.latency[:3].max()] * 2


def test_later_turns_without_a_first_are_refused():
    with pytest.raises(ConfigurationError, match="session 's'"):
        simulate([prompt((0, 9), session="s", turn=1, arrival=None)])


def test_users_give_up(new_run: Callable[..., Run]):
    requests = [prompt((0, 100), output=500, cancel_after=0.15), prompt((1, 100), output=500, cancel_after=9.0)]
    result = new_run(requests, To(0)).run()
    assert np.isnan(result.latency).tolist() == [True, False]
    assert 0 < result.output_tokens[0] < 500
    assert result.summary().failed == 1


def test_a_prompt_no_engine_can_take_fails_alone(new_run: Callable[..., Run]):
    result = new_run([prompt((0, 5_000)), prompt((1, 50))]).run()
    assert np.isnan(result.latency).tolist() == [True, False]


def test_the_end_of_what_fails_starts_the_next_turn(new_run: Callable[..., Run]):
    requests = [prompt((0, 5_000), session="s"), prompt((1, 50), session="s", turn=1, arrival=None)]
    assert new_run(requests).run().finished.tolist() == [False, True]


def test_reports_come_late(new_run: Callable[..., Run]):
    request = [prompt((0, 100), output=3)]
    prompt_result, late = (new_run(request, report_delay=delay).run() for delay in (0.0, 0.5))
    assert late.ttft[0] == pytest.approx(prompt_result.ttft[0] + 0.5)
    assert late.latency[0] == pytest.approx(prompt_result.latency[0] + 0.5)


def test_the_books_are_right_at_every_moment(new_run: Callable[..., Run]):
    """Small caches, late reports, moves and users who give up; checked after each event."""
    requests = [*traffic(), *(prompt((900 + n, 300), output=9, cancel_after=0.1 * n) for n in range(9))]
    run = new_run(requests, To(*[0, 0, 0, 1] * 40, relieves=True), report_delay=0.03, rebalance_interval=0.05)
    for _ in run.events():
        run.check()
    assert run.result.moved.any()


def test_waiting_requests_are_moved(new_run: Callable[..., Run]):
    requests = [prompt((index, 900), arrival=0.001 * index) for index in range(6)]
    stays = new_run(requests, To(0)).run()
    moves = new_run(requests, To(*[0] * 6, 1, relieves=True)).run()
    assert set(stays.worker) == {0}
    assert set(moves.worker) == {0, 1}
    assert moves.latency.max() < stays.latency.max()
    assert moves.moved[moves.worker == 1].all()


def test_what_the_policy_leaves_where_it_waits_keeps_its_place_and_is_not_asked_for_again(new_run: Callable[..., Run]):
    requests = [prompt((index, 900), arrival=0.001 * index) for index in range(6)]
    policy = To(0, relieves=True)
    asked = new_run(requests, policy).run()
    assert set(Counter(query.match.prompt for query in policy.asked).values()) == {1, 2}
    assert not asked.moved.any()
    assert np.array_equal(asked.latency, new_run(requests, To(0)).run().latency)


def test_workers_may_differ():
    slow = CostModel(pieces=((0, 10.0, 10.0, 0.0),))
    each = [OPTIONS, SimOptions(kv_tokens=4_000, cost=slow)]
    result = simulate([prompt((0, 100)), prompt((1, 100), arrival=5.0)], workers=each, policy=To(0, 1))
    assert result.ttft.tolist() == pytest.approx([0.101, 1.01])


def test_prefix_aware_beats_blind_where_prefixes_are_shared():
    requests = traffic(200)
    e2, blind = (simulate(requests, policy=policy, workers=2, options=OPTIONS) for policy in ("e2", "round-robin"))
    assert e2.summary().hit_ratio >= blind.summary().hit_ratio
    assert e2.summary().ttft_mean <= blind.summary().ttft_mean


def test_what_the_scheduler_believes_is_what_engines_hold():
    """The common beginning ends within a block: evicting one document must not forget the others."""
    asked = [0, 1, 2, 3, 4, 4, 3, 5, 5, 2, 6]
    requests = [
        prompt((0, 30), (1 + document, 900), (100 + index, 9), arrival=5.0 * index)
        for index, document in enumerate(asked)
    ]
    result = simulate(requests, workers=1, options=OPTIONS)
    assert result.cached[5] == 928
    assert result.predicted_cached.tolist() == result.cached.tolist()


def test_the_first_token_of_a_prompt_of_several_steps_is_predicted():
    cost = CostModel(pieces=((0, 20.0, 1.0, 0.0),), attention_context=0.01, extra_product=1e-3)
    requests = [prompt((1, 1_000)), prompt((1, 900), (2, 1_000), arrival=60.0)]
    result = simulate(requests, workers=1, options=msgspec.structs.replace(OPTIONS, cost=cost))
    assert result.ttft[1] > result.ttft[0] > 1.0
    assert result.predicted_ttft == pytest.approx(result.ttft)


def test_the_cold_start_can_be_left_out():
    requests = [prompt((0, 100), arrival=float(index)) for index in range(10)]
    result = simulate(requests, workers=1, options=OPTIONS)
    assert result.summary(skip=0.5).requests == 5
    assert result.summary(skip=0.5).hit_ratio > result.summary().hit_ratio


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": []}, {"report_delay": -1.0}, {"rebalance_interval": -1.0}, {"policy": "x"}]
)
def test_bad_arguments(options: dict[str, Any]):
    with pytest.raises(ConfigurationError):
        simulate(traffic(3), **options)


def test_no_requests():
    assert simulate([]).summary().requests == 0


class TestSegments:
    def test_a_shorter_one_is_the_beginning(self):
        assert segment_tokens(3, 100)[:40] == segment_tokens(3, 10)

    def test_others_are_different(self):
        first, second = unpack(segment_tokens(1, 2_000)), unpack(segment_tokens(2, 2_000))
        assert sum(a == b for a, b in zip(first, second, strict=True)) < 5
        assert len(set(first)) > 1_900
        assert min(first) >= 3
        assert max(first) < 32_000


class TestBounds:
    def test_alone_with_everything_cached(self):
        requests = [prompt((0, 100), (1, 20), output=3), prompt((0, 100), (2, 20), output=3)]
        bound = bounds(requests, OPTIONS)
        assert bound.hit_ratio == pytest.approx(100 / 240)
        assert bound.ttft_mean == pytest.approx((0.121 + 0.021) / 2)
        assert bound.latency_mean == pytest.approx(bound.ttft_mean + 2 * 0.002)

    def test_long_prompts_are_prefilled_in_chunks(self):
        assert bounds([prompt((0, 600))], OPTIONS).ttft_mean == pytest.approx(0.603)

    def test_a_whole_prompt_is_never_cached(self):
        assert bounds([prompt((0, 100)), prompt((0, 100))], OPTIONS).hit_ratio == pytest.approx(96 / 200)

    @pytest.mark.parametrize("policy", ["e2", "round-robin"])
    def test_nothing_is_below(self, policy: str):
        summary, bound = simulate(traffic(), policy=policy, options=OPTIONS).summary(), bounds(traffic(), OPTIONS)
        assert summary.ttft_mean >= bound.ttft_mean
        assert summary.latency_mean >= bound.latency_mean
        assert summary.hit_ratio <= bound.hit_ratio

    def test_turns_come_in_their_nominal_order(self):
        turns = [prompt((n, 9), session="s", turn=n, gap=10.0, arrival=None if n else 0.0) for n in range(3)]
        between = prompt((9, 9), arrival=15.0)
        assert [request.segments[0][0] for request in in_order([*turns[::-1], between])] == [0, 1, 9, 2]


class TestCommand:
    def test_a_table_of_a_trace(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        path = tmp_path / "trace.csv"
        path.write_text("t,p,o\n0,100,7\n1,50,3\n")
        assert main(["--trace", str(path), "--format", "lengths", "--policy", "e2", "--policy", "round-robin"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["policy", "e2", "round-robin", "alone,"]

    def test_counts_are_shown_where_they_are_not_zero(self, capsys: pytest.CaptureFixture[str]):
        words = ["--workload", "tests.simulate.test_simulate:made", "--policy", "e2", "--workers", "1"]
        assert main(words) == 0
        assert "preemptions" not in capsys.readouterr().out
        assert main([*words, "--kv-tokens", "480"]) == 0
        assert {"preemptions", "recomputed"} <= set(capsys.readouterr().out.split())

    def test_kinds_of_workers(self, capsys: pytest.CaptureFixture[str]):
        """Three workers, two of them so small that every prompt fails there."""
        words = ["--workload", "tests.simulate.test_simulate:made", "--policy", "round-robin", "--json"]
        assert main([*words, "--worker", "cost=small-cpu", "--worker", "kv_tokens=32,count=2"]) == 0
        summary = json.loads(capsys.readouterr().out)["policies"]["round-robin"]
        assert (summary["requests"], summary["failed"]) == (30, 20)

    def test_a_bar_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        assert main(["--workload", "tests.simulate.test_simulate:made", "--policy", "e2"]) == 0
        assert f"\re2{' ' * 16} [{'#' * 30}] 30/30" in capsys.readouterr().err

    def test_the_order_of_the_queues(self, capsys: pytest.CaptureFixture[str]):
        words = [
            "--workload",
            "tests.simulate.test_simulate:long_and_short",
            "--policy",
            "e2",
            "--workers",
            "1",
            "--json",
        ]
        means = {}
        for discipline in ("fcfs", "response-ratio"):
            assert main([*words, "--discipline", discipline]) == 0
            means[discipline] = json.loads(capsys.readouterr().out)["policies"]["e2"]["ttft_mean"]
        assert means["response-ratio"] < 0.7 * means["fcfs"], "the short ones pass the long one"

    def test_help_names_formats_and_examples(self, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(SystemExit):
            main(["--help"])
        shown = capsys.readouterr().out
        assert all(name in shown for name in [*FORMATS, "--worker kv_tokens="])

    def test_json_of_a_workload(self, capsys: pytest.CaptureFixture[str]):
        words = [
            "--workload",
            "tests.simulate.test_simulate:made",
            "--rate",
            "50",
            "--requests",
            "20",
            "--policy",
            "e2",
            "--json",
        ]
        assert main(words) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["policies"]["e2"]["requests"] == 20
        assert result["bounds"]["hit_ratio"] == pytest.approx(0.0)

    @pytest.mark.parametrize(
        "words",
        [
            ["--workload", "nowhere:f"],
            ["--workload", "json"],
            ["--workload", "tests.simulate.test_simulate:made", "--rate", "0"],
            ["--workload", "tests.simulate.test_simulate:made", "--rate", "1", "--requests", "1", "--kv-tokens", "-1"],
            ["--workload", "tests.simulate.test_simulate:made", "--workers", "0"],
            ["--workload", "tests.simulate.test_simulate:made", "--worker", "speed=2"],
            ["--workload", "tests.simulate.test_simulate:made", "--worker", "kv_tokens=many"],
            ["--workload", "tests.simulate.test_simulate:made", "--worker", "cost=unknown"],
            ["--workload", "tests.simulate.test_simulate:made", "--worker", "count=some"],
        ],
    )
    def test_bad_words(self, words: list[str]):
        with pytest.raises(ConfigurationError):
            main(words)


def long_and_short(seed: int) -> list[Request]:
    """One is being computed; of those that come meanwhile the first is long."""
    lengths = [2_000, 20_000, *[500] * 8]
    return [Request(segments=((n, length),), output_tokens=1, arrival=0.01 * n) for n, length in enumerate(lengths)]


def made(rate: float = 50.0, requests: int = 30, seed: int = 0) -> list[Request]:
    """What the command above is given."""
    return [prompt((index, 40), output=60, arrival=index / rate) for index in range(requests)]
