from __future__ import annotations

import pytest

from bench.live import Record, play, summary
from bench.workloads import Request
from preble import PrebleCluster
from preble.testing import make_model


def record(worker: str, ttft: float, prompt: int = 100, cached: int = 0) -> Record:
    return Record((1, 2), prompt, cached, worker, ttft, ttft + 1.0, end=4.0)


def test_summary_counts_per_worker_and_in_all():
    result = summary([record("w0", 0.1, cached=60), record("w1", 0.2), record("w0", 0.6, prompt=50)])
    assert result["requests"] == 3
    assert result["prompt_tokens"] == 250
    assert result["cached_tokens"] == 60
    assert result["ttft_mean"] == pytest.approx(0.3)
    assert result["ttft_p50"] == pytest.approx(0.2)
    assert result["ttft_p99"] == pytest.approx(0.592)
    assert result["latency_mean"] == pytest.approx(1.3)
    assert result["output_tokens_per_s"] == pytest.approx(1.5)
    assert result["per_worker"] == {
        "w0": {"requests": 2, "cached_tokens": 60, "computed_tokens": 90},
        "w1": {"requests": 1, "cached_tokens": 0, "computed_tokens": 100},
    }


async def test_times_count_from_the_intended_arrival_and_order_is_kept(tmp_path):
    model = str(make_model(tmp_path, hidden=64, layers=1, heads=2, kv_heads=1, intermediate=64, vocab=300))
    calls: list[None] = []
    # The step for the first takes 0.2 s, and the second, due meanwhile, has to wait.
    options = {"cost": {"pieces": [[0, 200.0, 0.0, 0.0]]}, "time_scale": 1.0, "max_running": 1}
    async with PrebleCluster(model, backend="sim", workers=1, engine_options=options) as cluster:
        requests = [Request(0.1, "second" * 5, 1, "b"), Request(0.0, "first" * 3, 2, "a")]
        records = await play(cluster, requests, lambda: calls.append(None))
    assert len(calls) == 2
    assert [len(one.token_ids) for one in records] == [1, 2]
    second, first = records
    assert first.ttft >= 0.19
    assert first.latency >= 0.39
    assert second.ttft >= 0.45
    assert second.end == pytest.approx(second.latency + 0.1)
    assert {second.worker, first.worker} == {"w0"}
