"""What engines report of their steps reaches the scheduler, and its predictions come true."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest

from preble import PrebleCluster, SamplingParams
from preble.backends.sim import SimOptions
from preble.core.cost import PRESETS
from preble.core.scheduler import Scheduler
from preble.simulate import Request, Result, simulate
from tests.cluster.cases import eventually, prompt

PREFILLS = [(1, 1), (1000, 1000), (1000, 3000), (2000, 2000), (2000, 4000)]
DECODES = [(1, 1000), (4, 8000), (8, 16_000)]


def conversations(count: int, gap: float = 2.0) -> list[Request]:
    """Prompts of a shared prefix and some hundred or thousand tokens of their own, one every `gap` seconds or so."""
    draw = random.Random(0)
    times = np.cumsum([draw.expovariate(1 / gap) for _ in range(count)]).tolist()
    return [
        Request(
            segments=((index % 4, draw.choice([512, 2048])), (10 + index, draw.randrange(20, 3000))),
            output_tokens=draw.randrange(1, 150),
            arrival=time,
        )
        for index, time in enumerate(times)
    ]


def served(true: str, believed: str, requests: list[Request], *, learning: bool = True) -> tuple[Scheduler, Result]:
    scheduler = Scheduler()
    workers = [SimOptions(cost=true)]
    result = simulate(requests, workers=workers, believed_cost=believed, learning=learning, scheduler=scheduler)
    return scheduler, result


ENGINES = pytest.mark.parametrize(
    ("true", "believed"),
    [
        ("llama-3-70b-h100-tp2", "mistral-7b-a6000"),
        ("mistral-7b-a6000", "llama-3-70b-h100-tp2"),
        ("llama-3-70b-a100-tp2", "mistral-7b-a100"),
        ("mistral-7b-a100", "small-cpu"),
    ],
)
"""The true cost and the preset."""


@ENGINES
def test_200_requests_tell_another_engine_from_its_preset(true: str, believed: str):
    scheduler, _ = served(true, believed, conversations(200))
    prices, cost = scheduler.prices("w0"), PRESETS[true]
    for size in PREFILLS:
        assert prices.prefill(*size) == pytest.approx(cost.prefill(*size), rel=0.1), size
    for size in DECODES:
        assert prices.decode(*size) == pytest.approx(cost.decode(*size), rel=0.1), size


def test_predicted_times_to_first_token_come_closer():
    def error(learning: bool) -> float:
        _, result = served("mistral-7b-a100", "mistral-7b-a6000", conversations(200), learning=learning)
        return float(np.median(abs(result.predicted_ttft / result.ttft - 1)[100:]))

    assert error(learning=True) < 0.25 < 0.75 < error(learning=False)


class Inferring(Scheduler):
    """Is not told of steps, and infers them."""

    def add_worker(self, worker: str, **options: Any) -> None:
        super().add_worker(worker, **{**options, "reports_steps": False})


@ENGINES
@pytest.mark.parametrize(("gap", "decodes"), [(2.0, DECODES), (0.7, [])], ids=["calm", "crowded"])
def test_first_tokens_and_ends_tell_an_engine_from_its_preset_too(
    true: str, believed: str, gap: float, decodes: list[tuple[int, int]]
):
    """Also where hardly any request is alone: up to 9 s of waiting; then no steps without prefills are seen."""
    scheduler, cost = Inferring(), PRESETS[true]
    requests = conversations(300, gap * cost.prefill(2000, 2000) / 0.3)
    workers = [SimOptions(cost=true)]
    simulate(requests, workers=workers, believed_cost=believed, learning=False, scheduler=scheduler)
    prices = scheduler.prices("w0")
    for size in PREFILLS[1:]:
        assert prices.prefill(*size) == pytest.approx(cost.prefill(*size), rel=0.2), size
    for size in decodes:
        assert prices.decode(*size) == pytest.approx(cost.decode(*size), rel=0.2), size


def documents(count: int) -> list[Request]:
    """Questions, one a second or so, on documents of some thousand tokens: several to a document."""
    draw, now, made = random.Random(0), 0.0, []
    for index in range(count):
        now += draw.expovariate(1.0)
        document = draw.randrange(count // 6)
        segments = (document, 6_000 + 1_000 * (document % 12)), (10_000 + index, draw.randrange(20, 400))
        made.append(Request(segments=segments, output_tokens=draw.randrange(1, 60), arrival=now))
    return made


def test_learning_what_the_preset_says_changes_no_placement():
    """Workers that noise tells apart would no longer be ties, which go to the emptiest cache."""
    taught, told = (
        simulate(documents(150), workers=4, options=SimOptions(kv_tokens=60_000), learning=learning)
        for learning in (True, False)
    )
    assert (taught.worker == told.worker).mean() > 0.95
    assert taught.ttft.mean() == pytest.approx(told.ttft.mean(), rel=0.02)


def test_without_learning_the_preset_stands():
    scheduler, _ = served("mistral-7b-a100", "small-cpu", conversations(20), learning=False)
    assert scheduler.prices("w0") == PRESETS["small-cpu"].coefficients()


async def test_a_live_cluster_learns_from_its_workers():
    options = {"cost": "mistral-7b-a100", "time_scale": 0.2}
    async with PrebleCluster(backend="sim", workers=2, cost="llama-3-70b-a100-tp2", engine_options=options) as cluster:
        preset = cluster.scheduler.prices("w0")
        sampling = SamplingParams(max_tokens=4, temperature=0.0)
        for first in range(0, 80, 4):
            await asyncio.gather(*(cluster.generate(prompt(first + i, 400), sampling) for i in range(4)))
        await eventually(lambda: all(cluster.scheduler.prices(worker) != preset for worker in ("w0", "w1")))
        for worker in ("w0", "w1"):
            prices = cluster.scheduler.prices(worker)
            assert prices.decode(4, 2000) < preset.decode(4, 2000) / 2
            assert prices.prefill(1000, 1000) < preset.prefill(1000, 1000) / 2
        cluster.scheduler.check()
