"""A cluster from its start to its end: what its users saw, and what its engines' steps took."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.live.playing import Record, serve
from bench.live.setting import Setting
from bench.live.shapes import SHORTEST, looped, shapes
from preble import PrebleCluster
from preble.core.cost import StepTiming
from preble.core.log import Observe, decode
from preble.simulate import Request
from preble.workers.worker import HEARTBEAT

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
            records, times = [await _warmed(cluster, setting, seed)], []
            for requests in phases:
                if cold or not times:
                    await _cleared(cluster, setting, seed, records[-1])
                begin = await _quiet()
                records.append(await serve(cluster, requests, setting.vocabulary, done))
                times.append((begin, await _quiet()))
        steps = [timings(log, *between) for between in times]
    return [Recording(*both) for both in zip(records[1:], steps, strict=True)]


def timings(log: Path, begin: float, end: float) -> list[StepTiming]:
    """Return what workers reported between two times of the cluster's clock."""
    with log.open("rb") as lines:
        events = [decode(line) for line in lines if b'"observe"' in line[:32]]
    found = (event for event in events if isinstance(event, Observe) and begin < event.now <= end)
    return [timing for event in found for timing in event.timings]


async def _warmed(cluster: PrebleCluster, setting: Setting, seed: int) -> list[Record]:
    """Let engines do once what the first requests would wait for."""
    requests = shapes(WARMING * setting.workers, setting.max_batched_tokens, seed)
    return await serve(cluster, looped(requests, setting.workers), setting.vocabulary, bool)


async def _cleared(cluster: PrebleCluster, setting: Setting, seed: int, before: Sequence[Record]) -> None:
    """Let workers and policy begin anew after the requests of `before`: cold caches, and as many requests everywhere.

    Who had fewer gets the rest, tiny ones, one by one: rules that break ties by the requests ever routed send them
    there, and round robin is where it began. What such a tie decides, the prefixes of a whole run follow.
    """
    routed = Counter(record.worker for record in before)
    missing = setting.workers * max(routed.values()) - len(before)
    tiny = looped(shapes(missing, SHORTEST, seed, outputs=1), 1)
    await serve(cluster, tiny, setting.vocabulary, bool)
    await cluster.reset_cache()


async def _quiet() -> float:
    """Wait until workers have reported all their steps; return the time, of the cluster's clock."""
    await asyncio.sleep(2 * HEARTBEAT)
    return asyncio.get_running_loop().time()
