"""Running cells: each with each contender and seed is a job, in a process of a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from statistics import fmean
from typing import TypeVar

import msgspec
import numpy as np

from bench.paper.cells import ROUND_ROBIN, Cell, Contender
from bench.workloads import WORKLOADS
from preble.simulate import Request, Result, bounds, simulate

Item = TypeVar("Item")
Made = TypeVar("Made")


class Job(msgspec.Struct, frozen=True):
    """One simulation."""

    cell: Cell
    contender: Contender
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Jobs of one key are the same."""
        return self.cell.name, self.contender.name, self.seed


class Outcome(msgspec.Struct, frozen=True):
    """A simulation in numbers; times in seconds. `behind` is the share of requests left at the last arrival."""

    requests: float
    failed: float
    latency_mean: float
    latency_p99: float
    ttft_mean: float
    tpot_mean: float
    hit_ratio: float
    utilisation: float
    behind: float


Outcomes = dict[str, dict[str, Outcome]]
"""By name of the cell, then of the contender; means over the seeds."""


class Results(msgspec.Struct, frozen=True):
    """The cells of each part, their outcomes, and by panel the mean latency of requests alone."""

    sweep: list[Cell]
    azure: list[Cell]
    ablation: list[Cell]
    beyond: list[Cell]
    baselines: list[Cell]
    outcomes: Outcomes
    alone: dict[str, float]
    seeds: int

    def of(self, cell: Cell, contender: Contender | str = ROUND_ROBIN) -> Outcome:
        """The outcome of a contender, or of the one of that name."""
        return self.outcomes[cell.name][contender if isinstance(contender, str) else contender.name]


def jobs(cells: Sequence[Cell], contenders: Sequence[Contender], seeds: int) -> list[Job]:
    """Everything there is to run."""
    return [Job(cell, contender, seed) for cell in cells for contender in contenders for seed in range(seeds)]


def run(work: Sequence[Job], processes: int, done: Callable[[], None]) -> Outcomes:
    """Run all, each job once; `done` after each."""
    once = list({job.key: job for job in work}.values())
    return merged(list(zip(once, pooled(outcome, once, processes, done), strict=True)))


def pooled(act: Callable[[Item], Made], items: Sequence[Item], processes: int, done: Callable[[], None]) -> list[Made]:
    """Return what `act` makes of each item, in order; `done` after each. One process is this one."""
    if processes == 1:
        return [_told(act(item), done) for item in items]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(act, item) for item in items]
        for _ in as_completed(futures):
            done()
        return [future.result() for future in futures]


def outcome(job: Job) -> Outcome:
    """Simulate."""
    cell, contender = job.cell, job.contender
    result = simulate(
        workload(cell, job.seed),
        policy=contender.built(),
        workers=cell.cluster.workers,
        options=msgspec.structs.replace(cell.cluster.engine, **contender.engine),
        discipline=contender.discipline,
        seed=job.seed,
        learning=contender.policy != "e2-paper",  # its prices are profiled beforehand
    )
    summary = result.summary()
    names = [name for name in Outcome.__struct_fields__ if name != "behind"]
    return Outcome(**{name: getattr(summary, name) for name in names}, behind=behind(result))


def workload(cell: Cell, seed: int) -> list[Request]:
    """The requests of a cell."""
    return WORKLOADS[cell.workload](rate=cell.rate, requests=cell.requests, seed=seed, **cell.arguments)


def behind(result: Result) -> float:
    """The share of requests that had not ended when the last one arrived: small unless work piles up."""
    ends = (result.arrival + result.latency)[result.finished]
    return float((ends > np.nanmax(result.arrival)).mean()) if len(ends) else 0.0


def alone(cell: Cell) -> float:
    """Mean latency, in seconds, of the cell's requests each alone with all of its prefix cached: nothing beats it."""
    return bounds(workload(cell, 0), cell.cluster.engine).latency_mean


def merged(found: Sequence[tuple[Job, Outcome]]) -> Outcomes:
    """Means over the seeds."""
    groups: dict[str, dict[str, list[Outcome]]] = {}
    for job, each in found:
        groups.setdefault(job.cell.name, {}).setdefault(job.contender.name, []).append(each)
    return {cell: {name: _mean(seeds) for name, seeds in by.items()} for cell, by in groups.items()}


def _mean(each: Sequence[Outcome]) -> Outcome:
    return Outcome(**{name: fmean(getattr(one, name) for one in each) for name in Outcome.__struct_fields__})


def _told(made: Made, done: Callable[[], None]) -> Made:
    done()
    return made
