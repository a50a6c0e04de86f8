"""A simulated worker: an engine that comes, serves and goes."""

from __future__ import annotations

from preble.backends import StepTiming
from preble.backends.sim import SimCore, SimOptions
from preble.core.cost import CostModel
from preble.core.scheduler import Scheduler
from preble.wait_queue.disciplines import DEFAULT, Discipline


class Worker:
    """An engine of `options` with an empty cache. `stepping`: a step is under way. `timings`: steps not reported yet.

    Once it is `gone` nothing is heard of it. The scheduler is told `believed_cost`, by default the engine's own.
    """

    __slots__ = ("believed_cost", "core", "discipline", "gone", "index", "options", "stepping", "timings")

    def __init__(
        self,
        index: int,
        options: SimOptions,
        *,
        discipline: Discipline = DEFAULT,
        believed_cost: CostModel | str | None = None,
    ) -> None:
        self.index = index
        self.options = options
        self.discipline = discipline
        self.believed_cost = believed_cost
        self.core = SimCore(options, discipline)
        self.stepping = False
        self.gone = False
        self.timings: list[StepTiming] = []

    @property
    def name(self) -> str:
        """What the scheduler calls it."""
        return f"w{self.index}"

    def join(self, scheduler: Scheduler, now: float) -> None:
        """Tell the scheduler that it takes requests."""
        scheduler.add_worker(
            self.name,
            kv_tokens=self.core.batcher.cache.total * self.options.block_size,
            block_size=self.options.block_size,
            cost=self.believed_cost or self.options.cost,
            max_batched_tokens=self.options.max_batched_tokens,
            discipline=self.discipline,
            reports_evictions=True,
            now=now,
        )

    def anew(self) -> Worker:
        """Return the same worker as after a start: it has forgotten everything."""
        return Worker(self.index, self.options, discipline=self.discipline, believed_cost=self.believed_cost)
