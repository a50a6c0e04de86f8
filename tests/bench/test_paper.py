"""The reproduction of the paper's evaluation: what its steps switch, and what it computes from runs."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from bench.paper import cells
from bench.paper.__main__ import main
from bench.paper.cells import A6000, ABLATION, CONTENDERS, FOUR, Cell, Cluster, Contender
from bench.paper.ratios import best, metrics, saturated, span
from bench.paper.result import document, read
from bench.paper.run import Job, Outcome, Results, behind, jobs, outcome, run, workload
from bench.paper.tables import claims, markdown
from preble.core.policies.baselines.round_robin import RoundRobin
from preble.core.policies.e2_paper.policy import E2Paper
from preble.simulate import Result

TECHNIQUES = ("load_shift", "autoscale", "balance")
TINY = Cluster("tiny", "tiny", 2, msgspec.structs.replace(A6000, kv_tokens=8_000), "4-gpu")
CELL = Cell("toolbench", "toolbench", TINY, 8.0, 40, {"popularity": "even", "sets": 4})


def made(latency: float, p99: float, left: float = 0.0) -> Outcome:
    return Outcome(100, 0, latency, p99, latency / 2, latency / 4, 0.5, 0.5, left)


def results(base: Outcome, paper: Outcome, ours: Outcome) -> Results:
    outcomes = {CELL.name: {"round-robin": base, "e2-paper": paper, "e2": ours}}
    return Results([CELL], [], [], [], [], outcomes, {CELL.panel: 2.0}, 1)


def test_each_step_of_the_ablation_adds_what_it_says():
    first, *steps = ABLATION
    assert isinstance(first.built(), RoundRobin)
    policies = [step.built() for step in steps]
    assert all(isinstance(policy, E2Paper) for policy in policies)
    switched = [tuple(getattr(policy, name) for name in TECHNIQUES) for policy in policies]
    assert switched == [(False, False, False), (True, True, False), (True, True, True), (True, True, True)]
    assert [step.discipline for step in ABLATION] == ["lpm", "lpm", "lpm", "lpm", "groups"]
    assert all(policy.eviction for policy in policies)


def test_the_last_step_is_what_the_sweep_calls_the_papers():
    paper = CONTENDERS[1]
    assert vars(ABLATION[-1].built()).keys() == vars(paper.built()).keys()
    assert (ABLATION[-1].policy, ABLATION[-1].discipline) == (paper.policy, paper.discipline)
    assert (ABLATION[-1].switches, paper.switches) == ({}, {})


def test_ratios_are_round_robins_times_over_the_others():
    found = results(made(8.0, 30.0), made(4.0, 10.0), made(2.0, 20.0))
    values = metrics(found)
    assert values["average_ratio_max"] == values["average_ratio_min"] == 2.0
    assert values["p99_ratio_max"] == 3.0
    assert values["e2_average_ratio_max"] == 4.0
    assert values["toolbench_tiny_8_e2_p99_ratio"] == 1.5
    assert values["toolbench_tiny_8_e2_paper_ttft_ratio"] == 2.0
    assert best(found, CELL) == 4.0
    assert span(found, [], "e2", "p99") == (0.0, 0.0)


def test_a_cell_where_work_piles_up_is_told_apart():
    calm, full = (results(made(8.0, 30.0, left), made(4.0, 10.0), made(2.0, 20.0)) for left in (0.01, 0.03))
    assert (saturated(calm, CELL), saturated(full, CELL)) == (False, True)
    assert metrics(calm)["average_ratio_max_below_saturation"] == 2.0
    assert metrics(full)["average_ratio_max_below_saturation"] == 0.0
    assert "no cell" in "".join(claims(full))


def test_what_is_left_at_the_last_arrival():
    result = Result.empty(4, 1)
    result.arrival[:] = [0.0, 1.0, 2.0, 3.0]
    result.latency[:] = [1.0, 5.0, 0.5, np.nan]
    assert behind(result) == pytest.approx(1 / 3)


def test_seeds_are_averaged_and_the_same_job_runs_once():
    contender = CONTENDERS[0]
    told: list[int] = []
    work = [*jobs([CELL], [contender], 2), *jobs([CELL], [contender], 2)]
    merged = run(work, 1, lambda: told.append(1))[CELL.name][contender.name]
    alone = [outcome(Job(CELL, contender, seed)) for seed in range(2)]
    assert len(told) == 2
    assert merged.latency_mean == pytest.approx(sum(each.latency_mean for each in alone) / 2)
    assert alone[0] != alone[1]


def test_a_contender_brings_its_own_engine_and_queue():
    base = Contender("base", "round-robin", "lpm", engine={"max_running": 1})
    queued = outcome(Job(CELL, base, 0))
    assert queued.ttft_mean > 2 * outcome(Job(CELL, CONTENDERS[0], 0)).ttft_mean
    assert queued != outcome(Job(CELL, msgspec.structs.replace(base, discipline="shortest-prefill"), 0))


def test_every_cell_makes_its_workload():
    for cell in (*cells.sweep(), *cells.azure(), *cells.ablation(), *cells.beyond(), *cells.baselines()):
        few = msgspec.structs.replace(cell, requests=28)
        assert workload(few, 0)
    names = [cell.name for cell in cells.sweep()]
    assert len(set(names)) == len(names) == 60


def test_the_sizes_are_the_papers():
    panels = {cell.panel: cell for cell in cells.sweep() if cell.cluster is not cells.EIGHT}
    asked = {
        name: len({request.segments[1][0] for request in workload(cell, 0)})
        for name, cell in panels.items()
        if cell.workload != "alfworld" and name != "toolbench_4xa6000"
    }
    assert asked["toolbench_2xa6000"] == 200
    assert (asked["loogle_2xa6000"], asked["loogle_4xa6000"]) == (24, 48)
    assert asked["programming_2xa6000"] == pytest.approx(100, abs=10)
    assert asked["videoqa_2xa6000"] == pytest.approx(asked["videoqa_4xa6000"] / 2, rel=0.2)


def test_quick_runs_from_end_to_end_and_reads_what_it_wrote(tmp_path, capsys, monkeypatch):
    few = {"sweep": cells.sweep()[4:8], "azure": cells.azure(), "ablation": cells.ablation(), "beyond": []}
    few["baselines"] = cells.sweep()[4:5]
    for name, chosen in few.items():
        monkeypatch.setattr(cells, name, lambda chosen=chosen: chosen)
    path, page = tmp_path / "paper.json", tmp_path / "paper.md"
    command = ["--quick", "--requests", "12", "--jobs", "1"]
    assert main([*command, "--json", str(path), "--markdown", str(page), "--figures", str(tmp_path)]) == 0
    content = json.loads(path.read_text())
    assert content["name"] == "paper"
    assert content["metrics"].keys() >= {"average_ratio_max", "p99_ratio_max", "azure_code_4xa6000_7_e2_ttft_ratio"}
    assert "toolbench_4xa6000_32_e2_paper_average_ratio" in content["metrics"]
    assert len(list(tmp_path.glob("paper-*.png"))) == 3
    printed = capsys.readouterr().out
    again = tmp_path / "again.md"
    assert main(["--read", str(path), "--markdown", str(again)]) == 0
    assert again.read_text() == page.read_text() == markdown(read(path))
    assert capsys.readouterr().out in printed


def test_a_document_says_what_made_it():
    found = document(results(made(8.0, 30.0), made(4.0, 10.0), made(2.0, 20.0)))
    assert found.machine["cpu"] in markdown(found)
    assert found.date[:10] in markdown(found)
    assert FOUR.engine.kv_tokens == 198_516
