from __future__ import annotations

import msgspec
import pytest

from bench.live.calibrate import Calibration, delay
from bench.live.comparison import Row, cells, flat, measured, simulated
from bench.live.playing import Record
from bench.live.recording import Recording
from preble.core.cost import CostModel, StepTiming
from preble.errors import ConfigurationError
from preble.simulate import Request, SimOptions, simulate

OPTIONS = SimOptions(kv_tokens=1024, cost="small-cpu")


def record(worker: str, ttft: float, prompt: int = 100, cached: int = 0) -> Record:
    return Record((1, 2), prompt, cached, worker, ttft, ttft + 1.0, end=4.0)


def row() -> Row:
    live = measured([record("w0", 0.1), record("w0", 0.3, cached=60)], 2)
    halved = msgspec.structs.replace(live, ttft_mean=0.1)
    fit = Calibration(CostModel(pieces=((0, 1.0, 0.0, 0.0),)), delay=0.0, error=0.1, steps=9)
    return Row("tools", "round-robin", 2, 0.5, live, halved, fit, steps=1.25)


def test_measures_of_a_live_run():
    live = measured([record("w0", 0.1), record("w0", 0.3, cached=60), record("w1", 0.2, prompt=40)], 2)
    assert (live.ttft_mean, live.latency_mean) == (pytest.approx(0.2), pytest.approx(1.2))
    assert live.hit_ratio == pytest.approx(60 / 240)
    assert live.imbalance == pytest.approx(144 / (186 / 2))


def test_a_worker_without_work_counts_in_the_imbalance():
    assert measured([record("w0", 0.1)], 2).imbalance == pytest.approx(2.0)


def test_measures_of_a_simulation_are_its_summary():
    requests = [Request(arrival=float(n), segments=((1, 64), (2 + n, 10)), output_tokens=3) for n in range(6)]
    result = simulate(requests, workers=2, options=OPTIONS)
    found, summary = simulated(result), result.summary()
    for name in ("ttft_mean", "ttft_p99", "latency_mean", "latency_p99", "hit_ratio", "imbalance"):
        assert getattr(found, name) == pytest.approx(getattr(summary, name)), name


def test_a_request_that_simulated_engines_refuse_is_an_error_and_not_a_gap():
    requests = [Request(arrival=0.0, segments=((1, length),), output_tokens=1) for length in (10, 2000)]
    with pytest.raises(ConfigurationError, match="2000 tokens"):
        simulated(simulate(requests, workers=1, options=OPTIONS))


def test_rows_show_live_over_simulated():
    assert row().ratio("ttft_mean") == pytest.approx(2.0)
    assert cells(row())[:5] == ("tools", "round-robin", "0.200", "0.100", "2.00")
    metrics = flat([row()])
    assert metrics["tools_round_robin_live_ttft_mean"] == pytest.approx(0.2)
    assert metrics["tools_round_robin_simulated_ttft_mean"] == 0.1
    assert metrics["tools_round_robin_steps_ratio"] == 1.25


def test_delay_is_what_the_engine_does_not_account_for():
    steps = [StepTiming(4, 4, 4, 16, 0, seconds) for seconds in (0.010, 0.012, 0.050)]
    records = [record("w0", ttft) for ttft in (0.013, 0.014, 0.052)]
    assert delay(Recording(records, steps)) == pytest.approx(0.002)
    assert delay(Recording(records, [StepTiming(4, 4, 4, 16, 0, 0.1)])) == 0.0
