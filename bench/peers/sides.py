"""What is compared, and one measurement of each."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.peers.answer import Target
from bench.peers.embedded import embedded, wire
from bench.peers.load import Measured, alone, replay, together
from bench.peers.over_http import OverHTTP, behind, direct
from bench.peers.routers import SGLANG_ROUTER, SMG
from bench.workloads.toolbench import toolbench
from preble.simulate import Request

Side = Callable[[Mapping[str, Any], int, Path], AbstractAsyncContextManager[Target]]
"""Starts so many workers with these options of the `sim` engine, and what is in front of them; logs go to a folder."""

OURS = "preble e2"
NO_ROUTER = "HTTP workers, no router"
NO_SCHEDULER = "preble's workers, no scheduler"
ROUTERS: dict[str, Side] = {
    "sglang-router cache_aware": partial(behind, SGLANG_ROUTER, "cache_aware"),
    "sglang-router round_robin": partial(behind, SGLANG_ROUTER, "round_robin"),
    "smg cache_aware": partial(behind, SMG, "cache_aware"),
}
CLUSTERS: dict[str, Side] = {
    OURS: partial(embedded, "e2"),
    "preble sglang-cache-aware": partial(embedded, "sglang-cache-aware"),
}
SIDES: dict[str, Side] = {NO_ROUTER: direct, **ROUTERS, NO_SCHEDULER: wire, **CLUSTERS}
BELOW = dict.fromkeys(ROUTERS, NO_ROUTER) | dict.fromkeys(CLUSTERS, NO_SCHEDULER)
"""What remains of a side without what routes."""

AT_ONCE = 64
OUTPUT_TOKENS = 43
"""Of every request replayed, the workload's mean: all alike, so that telling it in advance is worth nothing."""
RATE_PER_WORKER = 10.0
INSTANT: Mapping[str, Any] = {"time_scale": 0.0}
REAL_TIME: Mapping[str, Any] = {"time_scale": 1.0}


class Scale(msgspec.Struct, frozen=True):
    """How much is measured: rounds with instant engines, rounds in real time, workers, requests of each kind."""

    rounds: int
    replays: int
    workers: int
    warm: int
    alone: int
    ordinary: int
    together: int
    replayed: int

    @property
    def rate(self) -> float:
        """Requests per second when they are replayed."""
        return RATE_PER_WORKER * self.workers


FULL = Scale(rounds=5, replays=3, workers=4, warm=100, alone=500, ordinary=60, together=3000, replayed=800)
QUICK = Scale(rounds=1, replays=1, workers=2, warm=50, alone=100, ordinary=20, together=400, replayed=40)


async def overhead(side: str, scale: Scale, number: int) -> Measured:
    """Measure with engines that answer at once, one token each; a round's prompts are the same for all sides."""
    counts = (scale.warm, scale.alone, scale.ordinary, scale.together)
    workload = toolbench(requests=sum(counts), seed=number)
    with tempfile.TemporaryDirectory() as folder:
        async with SIDES[side](INSTANT, scale.workers, Path(folder)) as target:
            warm, single, ordinary, many = _split(_prepared(target, workload, 1), counts)
            with _unseen():
                await together(target, warm, AT_ONCE)
                found = await alone(target, single)
                found |= await _ordinary(target, ordinary)
                return found | await together(target, many, AT_ONCE)


async def serving(side: str, scale: Scale, number: int, done: Callable[[], object]) -> Measured:
    """Measure with engines that take their time, caches cold, in open loop; `done` is called after each request."""
    workload = toolbench(rate=scale.rate, requests=scale.replayed, seed=number)
    with tempfile.TemporaryDirectory() as folder:
        async with SIDES[side](REAL_TIME, scale.workers, Path(folder)) as target:
            requests = _prepared(target, workload, OUTPUT_TOKENS)
            with _unseen():
                return await replay(target, requests, [request.arrival or 0.0 for request in workload], done)


@contextmanager
def _unseen() -> Iterator[None]:
    """Spare the garbage collector the prompts made beforehand: no program has them all at hand."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _prepared(target: Target, workload: Sequence[Request], max_tokens: int) -> list[Any]:
    return [target.prepare(request.prompt(), max_tokens) for request in workload]


def _split(requests: list[Any], counts: Sequence[int]) -> list[list[Any]]:
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [requests[end - count : end] for end, count in zip(ends, counts, strict=True)]


async def _ordinary(target: Target, requests: Sequence[Any]) -> Measured:
    """The end of an answer as a client sees it that does not ask for quick acknowledgements; only over HTTP."""
    if not isinstance(target, OverHTTP):
        return {}
    ordinary = target.ordinary()
    found = await alone(ordinary, requests)
    ordinary.client.close()
    return {"ordinary_end_p50_us": found["end_p50_us"]}
