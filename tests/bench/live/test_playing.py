from __future__ import annotations

import pytest

from bench.live import Record, play, serve, summary
from bench.workloads import Request
from preble import PrebleCluster, simulate
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


async def test_closed_loops_go_on_with_what_was_generated():
    turns = [
        simulate.Request(arrival=0.0, session="a", segments=((1, 40),), output_tokens=24, output_segment=7),
        simulate.Request(session="a", turn=1, gap=0.1, segments=((1, 40), (7, 24), (2, 5)), output_tokens=2),
    ]
    async with PrebleCluster(backend="sim", workers=1, engine_options={"vocab_size": 1000}) as cluster:
        first, second = await serve(cluster, turns, 1000, lambda: None)
    assert (first.prompt_tokens, second.prompt_tokens) == (40, 69)
    assert second.cached_tokens == 48, "the first output was not found again"
    assert second.end == pytest.approx(first.end + 0.1 + second.latency)
