"""Orders of policies are compared as they should be, and the command serves both forms."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest

from bench.workloads import WORKLOADS
from bench.workloads.compare import PAIRS, POLICIES, QUICK, Pair, compare, kendall, main
from preble.simulate import Request


def test_orders_that_agree_and_that_do_not():
    up, down = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 3.0, "b": 2.0, "c": 1.0}
    assert kendall(up, up) == (1.0, 3)
    assert kendall(up, down) == (-1.0, 3)
    assert kendall(up, {"a": 1.0, "b": 3.0, "c": 2.0}) == (pytest.approx(1 / 3), 3)


def test_ties_in_either_are_no_pairs():
    assert kendall({"a": 1.0, "b": 1.04, "c": 3.0}, {"a": 2.0, "b": 1.0, "c": 3.0}) == (1.0, 2)
    assert kendall({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0}) == (1.0, 0)


def write(path: Path, requests: list[Request]) -> None:
    """A trace of segments, at one request a second."""
    path.parent.mkdir(exist_ok=True)
    rows = [{"p": request.segments, "o": request.output_tokens, "t": index} for index, request in enumerate(requests)]
    path.write_bytes(gzip.compress(b"\n".join(map(msgspec.json.encode, rows))))


def test_a_quick_run(tmp_path):
    chosen = [pair for pair in PAIRS if pair.name in ("toolbench", "videoqa")]
    for pair in chosen:
        write(tmp_path / pair.file, WORKLOADS[pair.name](rate=pair.rate)[: QUICK + 5])
    table, result = tmp_path / "table.md", tmp_path / "result.json"
    words = ["--workload", "toolbench", "--workload", "videoqa", "--markdown", str(table), "--json", str(result)]
    assert main(["--quick", "--traces", str(tmp_path), *words]) == 0
    rows = json.loads(result.read_text())["rows"]
    assert [(row["workload"], row["requests"]) for row in rows] == [("toolbench", QUICK), ("videoqa", QUICK)]
    assert all(row["generated"].keys() == row["traced"].keys() == set(POLICIES) for row in rows)
    assert all(-1 <= row["tau"] <= 1 and row["regret"] >= 0 for row in rows)
    assert table.read_text().count("<br>file:") == 2


def test_a_form_against_itself_agrees(tmp_path, monkeypatch):
    same = WORKLOADS["toolbench"](rate=40.0, requests=30)
    monkeypatch.setattr(Pair, "forms", lambda pair, traces, requests: (same, same))
    found = compare(PAIRS[0], tmp_path, None, bool)
    assert found.generated == found.traced
    assert (found.tau, found.regret) == (1.0, 0.0)
