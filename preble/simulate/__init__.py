"""Simulation: the scheduler, the dispatcher and the batching of a live cluster in virtual time.

    from preble.simulate import Request, simulate
    result = simulate(requests, policy="e2", workers=4)   # requests: preble.simulate.Request, in any order
    result.summary().ttft_mean                            # see Summary for the others
    result.ttft, result.worker, result.cached             # numpy arrays, an entry per request

The requests come from a generator (in this repository `bench.workloads.WORKLOADS[name](rate=, requests=, seed=)`), from
a trace (`preble.simulate.traces.load(path, format, speed=)`), or are written by hand. `policy` is a name or an object
with `place`. The workers are alike, as in `workers=8, options=SimOptions(kv_tokens=100_000, cost="mistral-7b-a100")`,
or a list of SimOptions. `changes=[Change(at=60.0, worker=1, action="crash")]` lets workers crash, drain and join. The
same arguments give the same result. `bounds(requests)` returns what no scheduler can beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from preble.backends.sim import SimOptions
from preble.core.cost import CostModel
from preble.core.policy import Policy
from preble.core.scheduler import Scheduler
from preble.errors import ConfigurationError, names_checked
from preble.simulate.bounds import Bounds, bounds
from preble.simulate.changes import Change, absent
from preble.simulate.request import Request, segment_tokens
from preble.simulate.result import Result, Summary
from preble.simulate.run import Run
from preble.simulate.worker import Worker
from preble.wait_queue.disciplines import DEFAULT, Discipline

__all__ = ["Bounds", "Change", "Request", "Result", "SimOptions", "Summary", "bounds", "segment_tokens", "simulate"]


@names_checked
def simulate(
    workload: Iterable[Request],
    *,
    policy: str | Policy = "e2",
    workers: int | Sequence[SimOptions] = 4,
    options: SimOptions | None = None,
    believed_cost: CostModel | str | None = None,
    discipline: Discipline = DEFAULT,
    seed: int = 0,
    report_delay: float = 0.0,
    rebalance_interval: float = 0.25,
    learning: bool = True,
    progress: Callable[[], object] = bool,
    scheduler: Scheduler | None = None,
    changes: Sequence[Change] = (),
) -> Result:
    """Serve a workload in virtual time, and return what became of every request.

    `workers` is a number of engines that are alike, with `options`, or the options of each. `discipline` is the order
    of their wait queues. The scheduler starts from the prices of `believed_cost`, by default each engine's own, and
    learns from the steps if `learning`. `seed` breaks ties. Tokens and reports of the engines arrive `report_delay`
    seconds late. Every `rebalance_interval` seconds (0: never) waiting requests may be moved. `progress` is called
    after each request. `scheduler`, without workers, is used instead of a new one with `policy` and `seed`. `changes`
    say which workers crash, drain or join, and when. Raises ConfigurationError.
    """
    each = [options or SimOptions()] * workers if isinstance(workers, int) else list(workers)
    if not each:
        raise ConfigurationError("workers: at least 1")
    if report_delay < 0 or rebalance_interval < 0:
        raise ConfigurationError("report_delay and rebalance_interval: at least 0")
    scheduler = scheduler or Scheduler(policy, seed=seed)
    changes = sorted(changes, key=lambda change: change.at)
    missing = absent(changes, len(each))
    engines = [
        Worker(index, engine, discipline=discipline, believed_cost=believed_cost) for index, engine in enumerate(each)
    ]
    for worker in engines:
        if worker.index in missing:
            worker.gone = True
        else:
            worker.join(scheduler, 0.0)
    run = Run(
        list(workload),
        scheduler,
        engines,
        report_delay=report_delay,
        rebalance_interval=rebalance_interval,
        learning=learning,
        progress=progress,
        changes=changes,
    )
    return run.run()
