"""The benchmark of our queue in front of vLLM, at toy size: both ways serve all, with the same tokens and steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the benchmark shows its progress")

from bench.engine_queue import main
from preble.testing import make_model
from tests.engines.conformance import require


def test_both_ways_give_the_same_tokens_in_as_many_steps(tmp_path: Path):
    require("vllm")
    model = make_model(tmp_path / "model", hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128)
    report = tmp_path / "report.json"
    assert main(["--rounds", "2", "--requests", "32", "--model", str(model), "--json", str(report)]) == 0
    result = json.loads(report.read_text())
    for name in ("distinct", "toolbench"):
        assert result["metrics"][f"{name}_throughput_ratio"] > 0
        assert result["metrics"][f"{name}_cpu_ratio"] > 0
    one_more = 1.25  # how many requests come in time for the first steps is up to the machine
    assert result["metrics"]["distinct_steps_ratio"] < one_more
