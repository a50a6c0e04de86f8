from __future__ import annotations

import json

import pytest

from bench import demo
from bench.demo import differences, main
from bench.live import Record
from preble.testing import make_model

POLICY_KEYS = {
    "requests", "prompt_tokens", "cached_tokens", "ttft_mean", "ttft_p50", "ttft_p99", "latency_mean", "latency_p99",
    "output_tokens_per_s", "per_worker",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return str(make_model(folder, hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, vocab=2048))


@pytest.mark.parametrize(("backend", "workers"), [("torch", 1), ("sim", 2)])
def test_demo_serves_with_both_policies_and_writes_what_it_found(
    backend, workers, model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(demo, "WORKERS", workers)  # importing torch takes longer than the run
    out, report = tmp_path / "out", tmp_path / "report.json"
    options = ["--quick", "--backend", backend, "--model", model, "--out", str(out), "--json", str(report)]
    assert main(options) == 0
    result = json.loads((out / "result.json").read_text())
    assert result.keys() == {"backend", "same_tokens", "policies"}
    assert result["backend"] == backend
    assert result["same_tokens"] is True
    assert result["policies"].keys() == {"round-robin", "e2"}
    for policy in result["policies"].values():
        check_policy(policy)
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads(report.read_text())["metrics"]
    assert metrics["ttft_mean_ratio"] == pytest.approx(metrics["round_robin_ttft_mean"] / metrics["e2_ttft_mean"])
    shown = capsys.readouterr().out
    assert "same tokens for every request" in shown
    assert "round-robin    0/" in shown


def check_policy(policy) -> None:
    assert policy.keys() == POLICY_KEYS
    workers = policy["per_worker"].values()
    assert sum(worker["requests"] for worker in workers) == policy["requests"] > 0
    computed = policy["prompt_tokens"] - policy["cached_tokens"]
    assert sum(worker["computed_tokens"] for worker in workers) == computed > 0
    assert 0 < policy["ttft_p50"] <= policy["ttft_p99"]
    assert policy["cached_tokens"] > 0
    assert policy["ttft_mean"] < policy["latency_mean"] <= policy["latency_p99"] * 1.0001


def test_differing_tokens_are_found_by_number():
    def record(*token_ids: int) -> Record:
        return Record(token_ids, 1, 0, "w0", 0.1, 0.2, 0.2)

    assert differences([record(1), record(2), record(3)], [record(1), record(2, 2), record(4)]) == [1, 2]
