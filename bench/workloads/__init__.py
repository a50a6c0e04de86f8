"""Workloads: one file each, seeded generators.

`WORKLOADS` are those for simulations, of `preble.simulate.Request`s whose prompts are token ids: call one with `rate=`
(requests a second), `requests=` (how many) and `seed=`, all optional. Text prompts, for real models, are in `stdlib`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import msgspec

from bench.workloads import stress
from bench.workloads.airline import airline
from bench.workloads.alfworld import alfworld
from bench.workloads.chat import chat
from bench.workloads.coding import coding
from bench.workloads.loogle import loogle
from bench.workloads.mixed import mixed
from bench.workloads.programming import programming
from bench.workloads.toolbench import toolbench
from bench.workloads.videoqa import videoqa
from preble import simulate

WORKLOADS: dict[str, Callable[..., list[simulate.Request]]] = {
    "toolbench": toolbench,
    "alfworld": alfworld,
    "programming": programming,
    "videoqa": videoqa,
    "loogle": loogle,
    "mixed": mixed,
    "chat": chat,
    "coding": coding,
    "airline": airline,
    "hot-prefix": stress.hot_prefix,
    "cold": stress.cold,
    "groups": stress.groups,
    "growing": stress.growing,
    "drift": stress.drift,
    "splits": stress.splits,
    "forks": stress.forks,
    "tenants": stress.tenants,
}


class Request(msgspec.Struct, frozen=True):
    """One request with a text prompt: `arrival` in seconds from the beginning, `session` names the shared prefix."""

    arrival: float
    prompt: str
    max_tokens: int
    session: str


def poisson(rate: float, chance: random.Random) -> Iterator[float]:
    """Yield arrival times without end, in seconds, `rate` a second on average."""
    now = 0.0
    while True:
        now += chance.expovariate(rate)
        yield now


def zipf(count: int, exponent: float) -> list[float]:
    """Return `count` weights, the first the heaviest: rank to the power of `-exponent`; 0 makes all alike."""
    return [rank**-exponent for rank in range(1, count + 1)]
