"""Orders of policies are compared as they should be, and the command runs where the trace files are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.workloads.compare import POLICIES, kendall, main

TRACES = Path(__file__).parents[3] / "shared" / "workloads"


def test_orders_that_agree_and_that_do_not():
    up, down = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 3.0, "b": 2.0, "c": 1.0}
    assert kendall(up, up) == (1.0, 3)
    assert kendall(up, down) == (-1.0, 3)
    assert kendall(up, {"a": 1.0, "b": 3.0, "c": 2.0}) == (pytest.approx(1 / 3), 3)


def test_ties_in_either_are_no_pairs():
    assert kendall({"a": 1.0, "b": 1.04, "c": 3.0}, {"a": 2.0, "b": 1.0, "c": 3.0}) == (1.0, 2)
    assert kendall({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0}) == (1.0, 0)


def test_without_the_files_it_says_so(tmp_path, capsys):
    assert main(["--traces", str(tmp_path / "none")]) == 2
    assert "no trace files" in capsys.readouterr().err


@pytest.mark.skipif(not TRACES.is_dir(), reason="the public trace files are not here: ../shared/workloads")
def test_a_quick_run(tmp_path):
    table, result = tmp_path / "table.md", tmp_path / "result.json"
    words = ["--workload", "toolbench", "--workload", "videoqa", "--markdown", str(table), "--json", str(result)]
    assert main(["--quick", "--traces", str(TRACES), *words]) == 0
    rows = json.loads(result.read_text())["rows"]
    assert [row["workload"] for row in rows] == ["toolbench", "videoqa"]
    assert all(row["generated"].keys() == row["traced"].keys() == set(POLICIES) for row in rows)
    assert all(-1 <= row["tau"] <= 1 and row["regret"] >= 0 for row in rows)
    assert table.read_text().count("<br>file:") == 2
