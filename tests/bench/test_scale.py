"""The scale study runs from end to end, and several schedulers behave as what they stand for."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bench.scale import __main__ as command
from bench.scale.runs import RATE, Scale, workload
from bench.scale.split import Split, by_chance, by_prefix
from bench.scale.timed import Timed
from preble.core.scheduler import Scheduler
from preble.simulate import Request, SimOptions, segment_tokens, simulate

OPTIONS = SimOptions(kv_tokens=4_000)


def requests() -> list[Request]:
    """Ten prefixes in turn, more than the caches hold."""
    return [
        Request(segments=((index % 10, 700), (10 + index, 30)), output_tokens=5, arrival=0.05 * index)
        for index in range(200)
    ]


def test_a_run_reports_all_of_it(tmp_path, capsys, monkeypatch):
    small = Scale(per_worker=5, sizes=(2, 8), split_per_worker=5, split_workers=8, schedulers=(4,), seeds=2)
    monkeypatch.setattr(command, "QUICK", small)
    table, result = tmp_path / "scale.md", tmp_path / "scale.json"
    assert command.main(["--quick", "--json", str(result), "--markdown", str(table)]) == 0
    found = json.loads(result.read_text())
    assert [(row["workers"], row["policy"]) for row in found["sizes"]][:4] == [
        (2, "e2"), (2, "smetric"), (2, "round-robin"), (8, "e2"),
    ]  # fmt: skip
    assert {(row["schedulers"], row["split"]) for row in found["split"]} == {(4, "random"), (4, "prefix")}
    assert all(math.isfinite(value) and value > 0 for value in found["metrics"].values())
    lines = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found["sizes"]) + 2 + len(found["split"])
    assert f"{small.requests}/{small.requests}" in capsys.readouterr().out, "progress reaches its end"


def test_the_workload_grows_with_the_workers():
    few, many = workload(4, 30), workload(16, 30)
    assert len(many) == 4 * len(few)
    span = [max(request.arrival or 0.0 for request in each) for each in (few, many)]
    assert span == pytest.approx([30 / RATE] * 2, rel=0.3)


def test_one_scheduler_alone_is_that_scheduler():
    alone = simulate(requests(), options=OPTIONS)
    split = Split([Scheduler("e2")], by_chance)
    assert np.array_equal(simulate(requests(), options=OPTIONS, scheduler=split).latency, alone.latency)
    split.check()


@pytest.mark.parametrize("choose", [by_chance, by_prefix])
def test_each_request_is_in_the_books_of_one(choose):
    split = Split([Scheduler("e2", seed=seed) for seed in range(3)], choose)
    assert simulate(requests(), options=OPTIONS, scheduler=split).finished.all()
    split.check()
    assert [scheduler.snapshot().requests for scheduler in split.schedulers] == [0, 0, 0]
    assert all(scheduler.tree.tokens for scheduler in split.schedulers), "each has its part"


@pytest.mark.parametrize("choose", [by_chance, by_prefix])
def test_waiting_requests_are_moved_by_the_scheduler_that_placed_them(choose):
    split = Split([Scheduler("e2", seed=seed) for seed in range(3)], choose)
    crowded = [
        Request(segments=((index % 7, 600), (10 + index, 300)), output_tokens=60, arrival=0.001 * index)
        for index in range(150)
    ]
    result = simulate(crowded, workers=4, options=OPTIONS, scheduler=split)
    assert result.finished.all()
    assert result.moved.any()
    split.check()


def test_a_prefix_has_one_scheduler_and_chance_spreads_it():
    prompts = [segment_tokens(7, 600) + segment_tokens(100 + index, 50) for index in range(50)]
    assert len({by_prefix(index, prompt, 8) for index, prompt in enumerate(prompts)}) == 1
    assert len({by_chance(index, prompt, 8) for index, prompt in enumerate(prompts)}) == 8


def test_all_hear_what_workers_evict():
    split = Split([Scheduler("e2") for _ in range(2)], lambda name, tokens, count: int(name))
    split.add_worker("w", kv_tokens=1_000, reports_evictions=True, now=0.0)
    prompt = segment_tokens(1, 100)
    for id in (0, 1):
        split.submit(id, prompt, now=0.0)
        split.finish(id, output=b"\3\0\0\0", now=1.0)
    split.evicted("w", prompt, 0, now=2.0)
    assert [split.submit(id, prompt, now=3.0).cached_tokens for id in (0, 1)] == [0, 0]
    split.check()


def test_every_decision_is_timed():
    timed = Timed(Scheduler("e2"))
    assert simulate(requests(), options=OPTIONS, scheduler=timed).finished.all()
    assert len(timed.nanoseconds) >= len(requests())
    assert min(timed.nanoseconds) > 0
