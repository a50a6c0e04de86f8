"""Policies side by side on an engine, at a pace that is a part of what it sustains under round robin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bench.live.calibrate import AT_ONCE
from bench.live.comparison import Measures, measured
from bench.live.recording import recorded
from bench.live.setting import Setting
from bench.live.shapes import looped
from bench.live.traffic import lasting, stretched
from bench.micro.figures import Figures, turns
from bench.progress import progress
from preble.simulate import Request

BASE = "e2"
"""The policy that the others are compared with."""
COMPARED = ("ttft_mean", "ttft_p99", "latency_mean")

Workloads = Mapping[str, Sequence[Request]]


class Rounds(msgspec.Struct, frozen=True):
    """What every policy gave in each round, by workload and policy, and the requests a second of each workload."""

    measures: dict[tuple[str, str], list[Measures]]
    rates: dict[str, float]


async def compare(
    setting: Setting, workloads: Workloads, policies: Sequence[str], *, rounds: int, utilisation: float, seed: int
) -> Rounds:
    """Serve all workloads under every policy in each round, each from cold caches, with new engines for each policy.

    Requests come at the part `utilisation` of the pace that round robin sustains. Raises what starting raises.
    """
    arriving = await paced(setting, workloads, utilisation=utilisation, seed=seed)
    found: dict[tuple[str, str], list[Measures]] = {(name, policy): [] for name in arriving for policy in policies}
    for number, policy in turns(policies, rounds):
        for name, measures in (await served(setting, policy, arriving, f"{number + 1}: {policy}", seed)).items():
            found[name, policy].append(measures)
    lasts = {name: max(request.arrival or 0.0 for request in requests) for name, requests in arriving.items()}
    return Rounds(found, {name: len(arriving[name]) / last for name, last in lasts.items() if last})


async def paced(setting: Setting, workloads: Workloads, *, utilisation: float, seed: int) -> dict[str, list[Request]]:
    """Serve each workload under round robin without pauses, and stretch it by how long that took."""
    pressed = [unpaused(requests, AT_ONCE * setting.workers) for requests in workloads.values()]
    with progress("measuring", sum(map(len, pressed))) as done:
        recordings = await recorded(setting, "round-robin", pressed, done, seed=seed, cold=True)
    return {
        name: lasting(workloads[name], max(record.end for record in recording.records) / utilisation)
        for name, recording in zip(workloads, recordings, strict=True)
    }


def unpaused(requests: Sequence[Request], at_once: int) -> list[Request]:
    """Return the requests so many at a time; those that have sessions of their own as these come, without gaps."""
    if any(request.arrival is None for request in requests):
        return stretched(requests, 0.0)
    return looped(requests, at_once)


async def served(setting: Setting, policy: str, workloads: Workloads, title: str, seed: int) -> dict[str, Measures]:
    """Serve all workloads, one after the other, on new engines."""
    with progress(title, sum(map(len, workloads.values()))) as done:
        recordings = await recorded(setting, policy, list(workloads.values()), done, seed=seed, cold=True)
    return {
        name: measured(recording.records, setting.workers)
        for name, recording in zip(workloads, recordings, strict=True)
    }


def figures(rounds: Rounds) -> Figures:
    """Return medians over rounds, and of the ratios to BASE within each round, with their spread."""
    made = Figures()
    for (workload, policy), measures in rounds.measures.items():
        for name in Measures.__struct_fields__:
            made.note(key(workload, policy, name), [getattr(one, name) for one in measures])
        base = rounds.measures.get((workload, BASE))
        if base and policy != BASE:
            for name in COMPARED:
                pairs = zip(measures, base, strict=True)
                made.note(
                    ratio(workload, policy, name), [getattr(one, name) / getattr(own, name) for one, own in pairs]
                )
    for workload, rate in rounds.rates.items():
        made.note(f"{workload}_requests_per_s", [rate])
    return made


def key(workload: str, policy: str, name: str) -> str:
    """Return the name of a figure in the result."""
    return f"{workload}_{policy}_{name}".replace("-", "_")


def ratio(workload: str, policy: str, name: str) -> str:
    """Return the name of the ratio of a policy's figure to that of BASE."""
    return f"{key(workload, policy, name)}_over_{BASE}"
