"""One result of the board each: what a policy sustains, a cell, a bound. All that a process of the pool is asked."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.policies.board import METRICS, OURS, Bound, Cell, Sustained
from bench.policies.cases import Case, workload
from bench.policies.saturation import largest
from preble.simulate import Request, Summary, bounds, simulate
from preble.wait_queue.disciplines import DEFAULT, Discipline

LIMIT_OF_BOUND, LIMIT_OF_UNCACHED = 5.0, 0.5
"""See the package's docstring."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured: a policy (none for a bound) on a case; at a `load`, or else the rate it sustains.

    `rate` is what is offered, and where a search starts. `queue` is the order of the workers' queues.
    """

    workload: str
    case: Case
    requests: int
    seeds: tuple[int, ...]
    rate: float
    policy: str | None = None
    load: float | None = None
    queue: Discipline = DEFAULT

    @property
    def size(self) -> int:
        """How many requests are sent: of a batch, the load's share."""
        return round(self.requests * (self.load or 1.0)) if self.case.batch else self.requests


def measure(job: Job) -> Cell | Sustained | Bound:
    """Do a job."""
    if job.policy is None:
        return bound(job)
    return sustained(job) if job.load is None else cell(job)


def sustained(job: Job) -> Sustained:
    """Search for the largest rate at which the limit holds, on the first seed. A batch sustains what it finishes."""
    limit = ttft_limit(job)
    if job.case.batch:
        rate = serve(job, job.rate, job.seeds[0]).rate
    else:
        rate = largest(
            lambda rate: serve(job, rate, job.seeds[0]).ttft_mean <= limit, job.rate, job.case.lowest, job.case.highest
        )
    unlimited = not job.case.batch and rate >= job.case.highest
    return Sustained(workload=job.workload, policy=str(job.policy), rate=rate, limit=limit, unlimited=unlimited)


def ttft_limit(job: Job) -> float:
    """Seconds that the mean TTFT may be. It depends on the case alone, not on where a search starts."""
    sent = workload(job.workload, job.case, rate=job.case.rate, requests=job.size, seed=job.seeds[0])
    strangers = [
        Request(arrival=0.0, segments=((index, request.prompt_tokens),), output_tokens=1)
        for index, request in enumerate(sent)
    ]
    cached, uncached = (bounds(requests, job.case.options).ttft_mean for requests in (sent, strangers))
    return max(LIMIT_OF_BOUND * cached, LIMIT_OF_UNCACHED * uncached)


def cell(job: Job) -> Cell:
    """Serve the job's load once for each seed."""
    runs = [serve(job, job.rate, seed) for seed in job.seeds]
    by_seed = {metric: [_value(run, metric) for run in runs] for metric in METRICS}
    return Cell(
        workload=job.workload,
        policy=str(job.policy),
        load=job.load or 0.0,
        rate=job.rate,
        requests=sum(run.requests for run in runs),
        failed=sum(run.failed for run in runs),
        moved=sum(run.moved for run in runs),
        by_seed=by_seed,
        **{metric: _mean(values) for metric, values in by_seed.items()},
    )


def bound(job: Job) -> Bound:
    """What no policy can beat on the requests of the job's load."""
    each = [
        bounds(workload(job.workload, job.case, rate=job.rate, requests=job.size, seed=seed), job.case.options)
        for seed in job.seeds
    ]
    means = {name: _mean([getattr(found, name) for found in each]) for name in each[0].__struct_fields__}
    return Bound(workload=job.workload, load=job.load or 0.0, rate=job.rate, **means)


def serve(job: Job, rate: float, seed: int) -> Summary:
    """Simulate one run. Only `e2` learns prices: those of the paper are profiled beforehand, peers look at none."""
    return simulate(
        workload(job.workload, job.case, rate=rate, requests=job.size, seed=seed),
        policy=str(job.policy),
        workers=job.case.workers,
        options=job.case.options,
        discipline=job.queue,
        seed=seed,
        learning=job.policy == OURS,
    ).summary()


def _value(run: Summary, metric: str) -> float:
    return float(getattr(run, "rate" if metric == "throughput" else metric))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
