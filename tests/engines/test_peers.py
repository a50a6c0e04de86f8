"""Preble in front of a real server, as `bench.peers --engine` has it; the router is not installed for this."""

from __future__ import annotations

import pytest

pytest.importorskip("httptools", reason="the benchmark's client needs httptools")

from bench.peers import over_engines
from bench.peers.engine_sides import SIDES
from bench.peers.over_engines import Scale, measure
from tests.engines.conformance import require


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_servers_are_started_measured_and_ended(kind: str, monkeypatch: pytest.MonkeyPatch):
    require(kind)
    ours = {name: side for name, side in SIDES.items() if name.startswith("preble")}
    monkeypatch.setattr(over_engines, "SIDES", ours)
    rounds, skipped = await measure(kind, Scale(rounds=1, servers=1, topics=1, requests=6, utilisation=0.8))
    assert not skipped
    assert rounds.keys() == ours.keys()
    one, other = (measured[0] for measured in rounds.values())
    assert one["prompt_tokens"] == other["prompt_tokens"] > 0
    for (measured,) in rounds.values():
        assert 0 < measured["ttft_mean_s"] < measured["latency_mean_s"]
        assert 0 < measured["hit_ratio"] < 1
