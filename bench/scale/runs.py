"""The runs: one size of cluster under one policy, and one number of schedulers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec
import numpy as np

from bench.scale.split import Choose, Split, by_chance, by_prefix
from bench.scale.timed import Timed
from bench.workloads.toolbench import toolbench
from preble.core.scheduler import Scheduler
from preble.simulate import Request, Summary, simulate

POLICIES = ("e2", "smetric", "round-robin")
SIZES = (8, 64, 256, 1024)
RATE = 8.0
"""Requests a second and worker."""
SETS = 25
"""Tool sets per worker."""
SKIP = 0.25
SPLITS: dict[str, Choose] = {"random": by_chance, "prefix": by_prefix}

SEEN = ("hit_ratio", "ttft_mean", "ttft_p99", "imbalance", "utilisation")
"""What a simulation tells of a size: names in its Summary, means over workloads."""

Advance = Callable[[], object]


class Scale(msgspec.Struct, frozen=True):
    """How much is run: requests per worker, sizes of clusters, workers and seeds of the split, schedulers tried."""

    per_worker: int = 40
    sizes: tuple[int, ...] = SIZES
    split_per_worker: int = 60
    split_workers: int = 64
    schedulers: tuple[int, ...] = (2, 4, 8)
    seeds: int = 3

    def rounds(self, workers: int) -> int:
        """How many workloads a cluster of that size serves under each policy."""
        return max(1, self.sizes[1] // workers)

    @property
    def requests(self) -> int:
        """How many requests all runs together serve."""
        grown = len(POLICIES) * self.per_worker * sum(size * self.rounds(size) for size in self.sizes)
        split = self.seeds * (1 + len(SPLITS) * len(self.schedulers)) * self.split_workers * self.split_per_worker
        return grown + split


QUICK = Scale(per_worker=20, sizes=(8, 64), split_per_worker=20, split_workers=16, schedulers=(4,), seeds=1)


class Size(msgspec.Struct, frozen=True):
    """What a cluster of that size did: microseconds per decision, and fields of `preble.simulate.Summary`."""

    workers: int
    policy: str
    decision_p50_us: float
    decision_p99_us: float
    hit_ratio: float
    ttft_mean: float
    ttft_p99: float
    imbalance: float
    utilisation: float


class Parts(msgspec.Struct, frozen=True):
    """Several schedulers against one: ratios of hit ratio and of times to first token, medians over seeds."""

    schedulers: int
    split: str
    hit_ratio: float
    ttft_mean: float
    ttft_p99: float


def workload(workers: int, per_worker: int, seed: int = 0) -> list[Request]:
    """Return tool use in proportion to the workers."""
    return toolbench(rate=RATE * workers, requests=per_worker * workers, sets=SETS * workers, seed=seed)


def sizes(scale: Scale, advance: Advance) -> list[Size]:
    """Run each policy on each size."""
    return [_size(workers, policy, scale, advance) for workers in scale.sizes for policy in POLICIES]


def _size(workers: int, policy: str, scale: Scale, advance: Advance) -> Size:
    """Small clusters serve several workloads, or their percentiles would stand on few requests."""
    took: list[int] = []
    summaries = []
    for seed in range(scale.rounds(workers)):
        timed = Timed(Scheduler(policy))
        summaries.append(_serve(workload(workers, scale.per_worker, seed), workers, timed, advance))
        took += timed.nanoseconds[int(SKIP * len(timed.nanoseconds)) :]
    return Size(
        workers=workers,
        policy=policy,
        decision_p50_us=float(np.percentile(took, 50)) / 1e3,
        decision_p99_us=float(np.percentile(took, 99)) / 1e3,
        **{name: float(np.mean([getattr(summary, name) for summary in summaries])) for name in SEEN},
    )


def parts(scale: Scale, advance: Advance) -> list[Parts]:
    """Run each number of schedulers with each split, on the same requests as one scheduler."""
    found: dict[tuple[int, str], list[list[float]]] = {}
    for seed in range(scale.seeds):
        requests = workload(scale.split_workers, scale.split_per_worker, seed)
        alone = _figures(_serve(requests, scale.split_workers, Scheduler("e2"), advance))
        for count in scale.schedulers:
            for name, choose in SPLITS.items():
                several = Split([Scheduler("e2", seed=index) for index in range(count)], choose)
                ratios = _figures(_serve(requests, scale.split_workers, several, advance)) / alone
                found.setdefault((count, name), []).append(ratios.tolist())
    return [Parts(*key, *np.median(ratios, axis=0).tolist()) for key, ratios in found.items()]


def _figures(summary: Summary) -> np.ndarray:
    return np.array([summary.hit_ratio, summary.ttft_mean, summary.ttft_p99])


def _serve(requests: list[Request], workers: int, scheduler: Any, advance: Advance) -> Summary:
    result = simulate(requests, workers=workers, scheduler=cast(Scheduler, scheduler), progress=advance)
    return result.summary(skip=SKIP)
