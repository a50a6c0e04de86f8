"""Traces become workloads: tiny files of each format, and the public ones where they are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preble.errors import ConfigurationError
from preble.simulate import bounds
from preble.simulate.traces import FORMATS, load
from preble.simulate.traces.clients import PREFIX_RANGE, servegen

TRACES = Path(__file__).parents[3] / "shared" / "workloads"
CLIENTS = "arrivals/servegen_m-large_day1.csv.gz"
SERVEGEN = """client,window_start_s,rate_rps,iat_cv,fit,p1,p2,input_mean,output_mean
7,0,3.0,1.0,Gamma,1.0,0.5,400.0,100.0
7,600,1.0,2.0,Weibull,0.6,9.0,400.0,100.0
9,0,1.0,1.0,Gamma,1.0,1.0,,
9,1200,9.0,1.0,Gamma,1.0,1.0,,
"""


def write(path: Path, *rows: dict[str, Any]) -> Path:
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_segments(tmp_path: Path):
    first = {"w": "x", "i": 0, "t": 8.0, "s": "a", "k": 0, "gap": None, "p": [[1, 50]], "o": 5, "os": 2}
    then = {**first, "t": None, "k": 1, "gap": 1.5, "p": [[1, 50], [2, 5], [3, 9]], "os": 4, "m": None}
    path = write(tmp_path / "trace.jsonl.gz", first, then)
    one, two = load(path, "segments", speed=4.0)
    assert (one.arrival, one.session, one.output_segment) == (2.0, "a", 2)
    assert (two.arrival, two.turn, two.gap, two.segments) == (None, 1, 1.5, ((1, 50), (2, 5), (3, 9)))


def test_blocks(tmp_path: Path):
    rows = [
        {"timestamp": 3000, "input_length": 1100, "output_length": 0, "hash_ids": [0, 1, 2]},
        {"timestamp": 0, "input_length": 1024, "output_length": 7, "hash_ids": [0, 1]},
    ]
    early, late = load(write(tmp_path / "trace.jsonl", *rows), "blocks", speed=2.0)
    assert early.segments == ((0, 512), (1, 512))
    assert late.segments == ((0, 512), (1, 512), (2, 76))
    assert 0 <= (early.arrival or 0) < 1.5 <= (late.arrival or 0) < 3, "jitter within the step"
    assert late.output_tokens == 1


def test_agents(tmp_path: Path):
    first = {"s": "a", "k": 0, "think": 0, "inp": 200, "out": 0, "bs": 64, "b": [[0, 2], [9, 1]]}
    then = {**first, "k": 1, "think": None, "inp": 192, "out": 9}
    one, two = load(write(tmp_path / "trace.jsonl", first, then), "agents")
    assert one.segments[:-1] == two.segments == ((0, 64), (1, 64), (9, 64))
    assert one.segments[-1][1] == 8
    assert (two.arrival, two.gap, one.output_tokens) == (None, 8.0, 1)


def test_lengths(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("t_s,context_tokens,generated_tokens\n0.5,100,7\n1.0,50,3\n")
    one, two = load(path, "lengths", speed=0.5)
    assert (one.arrival, one.prompt_tokens, one.output_tokens) == (1.0, 100, 7)
    assert one.segments[0][0] != two.segments[0][0]


@pytest.mark.parametrize("format", list(FORMATS))
@pytest.mark.parametrize("content", ["{}\n{}\n", "[1]\n[1]\n", "x\nnot,a,trace\n"])
def test_another_file_is_refused(tmp_path: Path, format: str, content: str):
    path = tmp_path / "trace"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="not a trace"):
        load(path, format)


@pytest.mark.skipif(not TRACES.is_dir(), reason="the public trace files are not here: ../shared/workloads")
@pytest.mark.parametrize(
    ("file", "format", "requests", "hit"),
    [
        ("preble5_ref4/loogle.seg.jsonl.gz", "segments", 986, 0.949),
        ("preble5_ref4/toolbench_zipf1.1.seg.jsonl.gz", "segments", 12_000, 0.838),
        ("preble5/alfworld_envid.seg.jsonl.gz", "segments", 7_092, 0.969),
        ("mooncake/conversation_0-40min.jsonl.gz", "blocks", 7_851, 0.358),
        ("arrivals/azure2023_code_0-30min.csv.gz", "lengths", 5_740, 0.0),
    ],
)
def test_public_files(file: str, format: str, requests: int, hit: float):
    trace = load(TRACES / file, format)
    assert len(trace) == requests
    assert bounds(trace).hit_ratio == pytest.approx(hit, abs=0.002)


def test_blocks_of_16_tokens_with_parents(tmp_path: Path):
    root = {"chat_id": 5, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 40, "output_length": 3, "turn": 1,
            "type": "text", "hash_ids": [1, 2, 3]}  # fmt: skip
    then = {**root, "chat_id": 8, "parent_chat_id": 5, "timestamp": 9.0, "turn": 2, "hash_ids": [1, 2, 4]}
    one, two = load(write(tmp_path / "trace.jsonl", root, then), "bailian")
    assert (one.arrival, two.arrival) == (1.5, 9.0), "seconds, and no jitter"
    assert one.segments == ((1, 16), (2, 16), (3, 8))
    assert (one.session, two.session, two.turn) == ("chat-5", "chat-5", 1)


@pytest.mark.parametrize("zone", ["", "+00:00"])
def test_lengths_with_dates_count_from_the_first(zone: str, tmp_path: Path):
    """As Azure publishes them: seven digits in 2023, a zone in 2024."""
    path = tmp_path / "trace.csv"
    first, then = f"2023-11-16 18:59:59.5000000{zone}", f"2023-11-16 19:00:01.2500000{zone}"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{first},10,1\n{then},20,2\n")
    assert [request.arrival for request in load(path, "lengths")] == [0.0, 1.75]


@pytest.mark.parametrize("more", ["", "Session ID,Elapsed time,"])
def test_burstgpt_by_names_without_failures(more: str, tmp_path: Path):
    path, filler = tmp_path / "trace.csv", "s,1.0," if more else ""
    path.write_text(
        f"Timestamp,{more}Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        f"5,{filler}ChatGPT,472,18,490,Conversation log\n"
        f"45,{filler}ChatGPT,1087,0,1087,API log\n"
        f"118,{filler}GPT-4,417,276,693,Conversation log\n"
    )
    found = load(path, "burstgpt", speed=2.0)
    assert [(each.arrival, each.prompt_tokens, each.output_tokens) for each in found] == [
        (2.5, 472, 18),
        (59, 417, 276),
    ]
    assert bounds(found).hit_ratio == 0


class TestServegen:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        (tmp_path / "clients.csv").write_text(SERVEGEN)
        return tmp_path / "clients.csv"

    def test_rates_are_scaled_and_windows_kept(self, path: Path):
        found = servegen(path, rate=5.0, seconds=1_200.0)
        assert len(found) == pytest.approx(6_000, rel=0.1)
        arrivals = np.array([request.arrival for request in found])
        assert (np.diff(arrivals) >= 0).all()
        assert (arrivals < 600).mean() == pytest.approx(0.8, abs=0.04)
        of = [request.session for request in found]
        assert of.count("client-7") / len(of) == pytest.approx(0.8, abs=0.04)
        assert np.mean([r.output_tokens for r in found if r.session == "client-7"]) == pytest.approx(100, rel=0.1)

    def test_a_client_has_one_prefix_and_nobody_else_has_it(self, path: Path):
        first = {request.session: request.segments[0] for request in load(path, "servegen")}
        assert len(set(first.values())) == len(first) == 2
        assert all(request.segments[0] == first[request.session] for request in load(path, "servegen"))
        assert all(PREFIX_RANGE[0] <= length <= PREFIX_RANGE[1] for _, length in first.values())
        own = [request.segments[1][0] for request in load(path, "servegen")]
        assert len(set(own)) == len(own)

    def test_windows_are_chosen_and_times_begin_at_0(self, path: Path):
        later = servegen(path, begin=1_200.0, seconds=600.0, rate=2.0, speed=4.0)
        assert {request.session for request in later} == {"client-9"}
        assert 0 <= (later[0].arrival or 0) < (later[-1].arrival or 0) < 150

    def test_the_same_seed_draws_the_same(self, path: Path):
        assert servegen(path, seed=3) == servegen(path, seed=3) != servegen(path, seed=4)

    def test_no_windows(self, path: Path):
        with pytest.raises(ConfigurationError, match="no windows"):
            servegen(path, begin=9e9)

    @pytest.mark.skipif(not (TRACES / CLIENTS).exists(), reason="the public trace files are not here")
    def test_the_public_file(self):
        found = load(TRACES / CLIENTS, "servegen")
        assert len(found) == pytest.approx(18_000, rel=0.05)
        gaps = np.diff([request.arrival or 0.0 for request in found])
        assert 1.0 < gaps.std() / gaps.mean() < 2.5, "scaled to 10/s over half an hour: 1.5 or so"
