"""A cluster from its start to its end: what its users saw, and what its engines' steps took."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from bench.live.playing import Record, serve
from bench.live.setting import Setting
from bench.live.shapes import looped, shapes
from preble import PrebleCluster
from preble.core.cost import StepTiming
from preble.core.log import Observe, decode
from preble.simulate import Request
from preble.worker import HEARTBEAT

WARMING = 8
"""Requests for each worker before anything is measured."""


class Recording(msgspec.Struct, frozen=True):
    """The requests of one phase, in their order, and the steps that engines took for them."""

    records: list[Record]
    steps: list[StepTiming]


async def recorded(
    setting: Setting,
    policy: str,
    phases: Sequence[Sequence[Request]],
    done: Callable[[], object],
    *,
    seed: int,
    cold: bool = False,
    **arguments: Any,
) -> list[Recording]:
    """Start a cluster, warm it up, and play one list of requests after the other; the first begins with cold caches.

    If `cold`, all of them do. `done` is called after each request, `arguments` are more of PrebleCluster's. The timings
    are read from its decision log; there are none if the engine does not report any. Raises what starting raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        async with setting.cluster(policy, seed=seed, decision_log=log, **arguments) as cluster:
            moments = [await _warmed(cluster, setting, seed)]
            records = []
            for number, requests in enumerate(phases):
                if cold and number:
                    await cluster.reset_cache()
                records.append(await serve(cluster, requests, setting.vocabulary, done))
                moments.append(await _quiet())
        steps = [timings(log, *between) for between in pairwise(moments)]
    return [Recording(*both) for both in zip(records, steps, strict=True)]


def timings(log: Path, begin: float, end: float) -> list[StepTiming]:
    """Return what workers reported between two times of the cluster's clock."""
    with log.open("rb") as lines:
        events = [decode(line) for line in lines if b'"observe"' in line[:32]]
    found = (event for event in events if isinstance(event, Observe) and begin < event.now <= end)
    return [timing for event in found for timing in event.timings]


async def _warmed(cluster: PrebleCluster, setting: Setting, seed: int) -> float:
    """Let engines do once what the first requests would wait for; return the time, of the cluster's clock.

    Nothing of it stays cached. Round robin is where it began, for every worker gets as many requests.
    """
    requests = shapes(WARMING * setting.workers, setting.max_batched_tokens, seed)
    await serve(cluster, looped(requests, setting.workers), setting.vocabulary, bool)
    await cluster.reset_cache()
    return await _quiet()


async def _quiet() -> float:
    """Wait until workers have reported all their steps; return the time, of the cluster's clock."""
    await asyncio.sleep(2 * HEARTBEAT)
    return asyncio.get_running_loop().time()
