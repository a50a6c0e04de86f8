from __future__ import annotations

import json

import msgspec
import pytest

from bench.live.__main__ import command, main
from bench.live.calibrate import PHASES, calibrate
from preble.core.cost import CostModel
from preble.errors import ConfigurationError
from preble.testing import make_model
from tests.bench.live.small_setting import small


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return str(make_model(folder, hidden=64, layers=1, heads=2, kv_heads=1, intermediate=64, vocab=1024))


@pytest.mark.parametrize(("backend", "policies"), [("sim", ["round-robin", "e2"]), ("torch", ["round-robin"])])
def test_a_run_compares_live_with_simulated(backend, policies, model, tmp_path, capsys):
    report, page = tmp_path / "report.json", tmp_path / "page.md"
    options = ["--backend", backend, "--workload", "airline", *(f"--policy={policy}" for policy in policies)]
    options += ["--workers", "1"] if backend == "torch" else []  # importing torch takes longer than the run
    options += ["--requests", "8", "--calibration", "4", "--utilisation", "0.9", "--model", model]
    assert main([*options, "--json", str(report), "--markdown", str(page)]) == 0
    result = json.loads(report.read_text())
    assert result["calibrations"]["airline"]["steps"] > 8
    metrics = result["metrics"]
    for name in (f"airline_{policy.replace('-', '_')}" for policy in policies):
        for kind in ("live", "simulated"):
            assert 0 < metrics[f"{name}_{kind}_ttft_mean"] <= metrics[f"{name}_{kind}_latency_mean"]
        assert result["fits"][name]["steps"] > 8
        # A model that was fitted to the run itself would give all its steps together the time that they took.
        assert metrics[f"{name}_steps_ratio"] > 0
        assert metrics[f"{name}_steps_ratio"] != pytest.approx(1.0, abs=1e-6)
    # One session: its turns come one by one, so that the placements, and what is cached there, are the same.
    assert metrics["airline_round_robin_live_hit_ratio"] == metrics["airline_round_robin_simulated_hit_ratio"] > 0
    shown, written = capsys.readouterr().out, page.read_text()
    assert "Fitted to" in shown
    for policy in policies:
        assert f"| airline | {policy} |" in written


def test_a_run_compares_policies_with_each_other(tmp_path, capsys):
    report, page = tmp_path / "report.json", tmp_path / "page.md"
    options = ["--backend", "sim", "--beside", "policies", "--quick", "--requests", "12", "--workload", "programming"]
    assert main([*options, "--utilisation", "5", "--json", str(report), "--markdown", str(page)]) == 0
    metrics = json.loads(report.read_text())["metrics"]
    ours, other = metrics["programming_e2_ttft_mean"], metrics["programming_round_robin_ttft_mean"]
    assert metrics["programming_round_robin_ttft_mean_over_e2"] == pytest.approx(other / ours)
    assert metrics["programming_requests_per_s"] > 0
    assert "1: round-robin" in capsys.readouterr().out
    assert "| programming | round-robin |" in page.read_text()


async def test_calibration_measures_the_engine():
    told = CostModel(pieces=((0, 20.0, 0.0, 0.0), (32, 20.0, 0.1, 0.0)))
    setting = small("sim", cost=msgspec.to_builtins(told), time_scale=1.0)
    calls: list[None] = []
    found = await calibrate(setting, requests=4, longest=200, seed=0, done=lambda: calls.append(None))
    assert len(calls) == 4 * PHASES
    # A busy machine makes steps longer, never much shorter.
    assert found.cost.prefill(120, 120) > 0.8 * told.prefill(120, 120)
    assert found.cost.decode(2, 300) > 0.8 * told.decode(2, 300)


async def test_an_engine_without_timings_cannot_be_calibrated(monkeypatch):
    setting = small("tests.bench.live.silent_engine:silent")
    with pytest.raises(ConfigurationError, match="does not report"):
        await calibrate(setting, requests=1, longest=10, seed=0, done=bool)


def test_the_command_on_the_page_names_no_files():
    words = ["--requests", "9", "--json", "/a/b", "--model=/c", "--quick", "--markdown", "/d"]
    assert command(words) == "python -m bench.live --requests 9 --quick"
