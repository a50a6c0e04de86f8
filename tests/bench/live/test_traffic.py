from __future__ import annotations

import msgspec
import pytest

from bench.live.traffic import LIVE, lasting, paced, scaled, stretched, workload
from preble.backends.sim import SimOptions
from preble.simulate import Request, simulate

OPTIONS = SimOptions(kv_tokens=16_384, cost="small-cpu", max_batched_tokens=512, max_running=64)


def test_scaled_divides_and_keeps_what_is_shared():
    first = Request(arrival=0.0, segments=((1, 1000), (2, 90)), output_tokens=40, output_segment=9, session="a")
    second = Request(segments=((1, 1000), (2, 90), (9, 40), (3, 5)), output_tokens=3, session="a", turn=1)
    one, two = scaled([first, second], 10, 4)
    assert one.segments == ((1, 100), (2, 9))
    assert two.segments == ((1, 100), (2, 9), (9, 10), (3, 1))
    assert (one.output_tokens, one.max_tokens, two.output_tokens) == (10, 10, 1)
    assert two.prompt().startswith(one.prompt())


def test_scaled_keeps_a_shorter_part_of_a_segment_a_prefix_of_the_longer():
    short, long = scaled([Request(arrival=0.0, segments=((1, n),), output_tokens=1) for n in (333, 777)], 7, 1)
    assert long.prompt().startswith(short.prompt())


def test_stretched_multiplies_arrivals_and_gaps():
    request = Request(segments=((1, 1),), output_tokens=1, session="a", turn=1, gap=2.0)
    first = Request(segments=((1, 1),), output_tokens=1, session="a", arrival=3.0)
    one, two = stretched([first, request], 0.5)
    assert (one.arrival, two.arrival, two.gap) == (1.5, None, 1.0)


@pytest.mark.parametrize("name", ["toolbench", "airline"])
def test_paced_makes_workers_as_busy_as_asked(name):
    requests = paced(workload(name, 60, 0), 0.4, workers=2, options=OPTIONS)
    summary = simulate(requests, policy="round-robin", workers=2, options=OPTIONS).summary()
    assert summary.utilisation == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("name", LIVE)
def test_workloads_fit_small_engines_and_are_seeded(name):
    requests = workload(name, 60, 0)
    assert requests == workload(name, 60, 0) != workload(name, 60, 1)
    assert max(request.prompt_tokens + request.output_tokens for request in requests) < 8_192
    assert 0 < len(requests) <= 60


def test_lasting_stretches_until_the_last_request_is_due():
    opened = [Request(arrival=arrival, segments=((1, 1),), output_tokens=1) for arrival in (1.0, 5.0, 2.0)]
    assert [request.arrival for request in lasting(opened, 10.0)] == [2.0, 10.0, 4.0]
    first = Request(arrival=4.0, segments=((1, 1),), output_tokens=1, session="a")
    later = [msgspec.structs.replace(first, arrival=None, turn=turn, gap=3.0) for turn in (1, 2)]
    assert lasting([first, *later], 5.0) == [
        msgspec.structs.replace(first, arrival=2.0), *(msgspec.structs.replace(one, gap=1.5) for one in later)
    ]  # fmt: skip
