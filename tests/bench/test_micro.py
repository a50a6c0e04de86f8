"""The benchmark runs from end to end and reports what it says; how fast anything is, is not tested."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from bench.micro.cases import CASES
from bench.micro.figures import Figures, alternated
from bench.micro.prompts import Prompts, unpacked
from bench.micro.served import IN_FLIGHT, Served

METRICS = {
    "calibration_pack_8k_us", "decision_packed_p50_us", "decision_packed_p99_us", "decision_list_p50_us",
    "finish_p50_us", "finish_p99_us", "decisions_per_s", "bytes_per_token_8k", "bytes_per_token_1k", "worst_pause_ms",
    "worst_step_ms", "decision_miss_p50_us", "decision_different_workers_p50_us", "decision_replicated_half_p50_us",
    "decision_replicated_all_p50_us", "growth_workers_4_to_256", "growth_e2_tree", "decision_1k_p50_us",
    "decision_128k_p50_us", "decision_us_per_1k_tokens", "chain_40_turns_p50_us", "decision_evicting_p50_us",
    "growth_evicting_stream",
}  # fmt: skip


TINY = """
import sys
from bench.micro import __main__ as command, rows
rows.QUICK = rows.Scale(requests=100, queries=50, rounds=2, stream=1600)
sys.exit(command.main(sys.argv[1:]))
"""


def test_quick_run_reports_every_metric_with_its_spread(tmp_path):
    path = tmp_path / "micro.json"
    # In a process of its own, because it pins itself to a core; smaller still than `make bench` runs it.
    subprocess.run([sys.executable, "-c", TINY, "--quick", "--json", str(path)], check=True, capture_output=True)
    result = json.loads(path.read_text())
    metrics = result["metrics"]
    assert metrics.keys() >= METRICS
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(metrics[name] > 0 for name in METRICS)
    assert result["spread"].keys() == metrics.keys()
    assert all(low <= metrics[name] <= high for name, (low, high) in result["spread"].items())
    assert result["quick"] is True
    assert result["peers"] == {}
    assert 0 <= result["run"]["taken_by_others"] <= 1
    assert len(result["run"]["load_average"]) == 2


def test_native_parts_are_compared_with_all_and_without_each(tmp_path):
    path = tmp_path / "native.json"
    command = [sys.executable, "-m", "bench.micro", "--compare-native", "--quick", "--json", str(path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    sides = ["all in C", "without _pack", "without _price", "without _walk", "none in C"]
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics.keys() == {f"{case}, {side}" for case in CASES for side in sides}
    assert all(value > 0 and math.isfinite(value) for value in metrics.values())
    assert [line.count("|") for line in shown.splitlines()[-len(CASES) :]] == [7] * len(CASES)


def test_prompts_of_a_group_share_what_they_say():
    prompts = Prompts(1000, 80)
    first, *_ = prompts.take(1)
    prefixes = {prompts.prefix(group) for group in range(prompts.groups)}
    assert any(first.startswith(prefix) for prefix in prefixes)
    assert {len(prefix) for prefix in prefixes} == {4 * 850}
    assert len({prefix[: 4 * 50] for prefix in prefixes}) == 1
    assert len(first) == 4 * 1000
    assert np.array_equal(unpacked([first])[0], np.frombuffer(first, "<i4"))


def test_misses_share_nothing():
    assert len({prompt[:16] for prompt in Prompts(100, 80).misses(10)}) == 10


def test_served_keeps_64_in_flight_and_its_books():
    prompts = Prompts(64, 200)
    served = Served(workers=3, kv_tokens=2000).fill(prompts.take(100))
    submits, finishes = served.time(prompts.take(50))
    assert (len(submits), len(finishes)) == (50, 50)
    assert served.scheduler.snapshot().requests == IN_FLIGHT
    served.scheduler.check()
    for _ in range(IN_FLIGHT):
        assert served.end() > 0
    assert served.scheduler.snapshot().requests == 0


def test_a_ratio_takes_both_sides_of_each_round_in_alternating_order():
    order, figures = [], Figures()

    def side(name, value):
        def measure(number):
            order.append((name, number))
            return value * (number + 1)

        return measure

    assert figures.compare("ratio", side("a", 1.0), side("b", 3.0), 3) == ([1.0, 2.0, 3.0], [3.0, 6.0, 9.0])
    assert order == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert figures.metrics == {"ratio": pytest.approx(3.0)}
    assert alternated(lambda _: 1.0, lambda _: 2.0, 1) == (1.0, 2.0)
