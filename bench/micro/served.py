"""A scheduler with requests passing through it, and the clock around its calls."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from preble.core.scheduler import Scheduler
from preble.tokens import TokenInput
from preble.wait_queue.disciplines import DEFAULT

IN_FLIGHT = 64
OUTPUT = b"\1\0\0\0\2\0\0\0"
STEP = 5e-3
"""Seconds between requests, on the scheduler's clock: a three-minute window holds 36 000 and expires all the time."""

ALIKE = ("mistral-7b-a6000",)
DIFFERENT = ("mistral-7b-a6000", "mistral-7b-a100")

Nanoseconds = NDArray[np.int64]


class Served:
    """A scheduler whose requests start at once, find what was believed, and finish when 64 newer ones are there."""

    def __init__(
        self, *, workers: int, kv_tokens: int = 1 << 40, policy: str = "e2", costs: Sequence[str] = ALIKE
    ) -> None:
        """Workers take their `costs` in turn; by default caches are so large that nothing is evicted.

        Their queues are a cluster's.
        """
        self.scheduler = Scheduler(policy)
        for worker, cost in zip(range(workers), cycle(costs), strict=False):
            self.scheduler.add_worker(
                f"w{worker}", kv_tokens=kv_tokens, block_size=16, cost=cost, discipline=DEFAULT, now=0.0
            )
        self.now = 0.0
        self.number = 0
        self.flying: deque[int] = deque()

    def fill(self, prompts: Iterable[TokenInput], worker: str | None = None) -> Served:
        """Serve prompts, without noting how long it takes; on `worker`, if it is given. Return this."""
        for prompt in prompts:
            self.submit(prompt, worker)
            self.finish()
        return self

    def time(self, prompts: Sequence[TokenInput]) -> tuple[Nanoseconds, Nanoseconds]:
        """Serve prompts; return what each submit and each finish took."""
        calls = [(self.submit(prompt), self.finish()) for prompt in prompts]
        submits, finishes = zip(*calls, strict=True)
        return np.array(submits), np.array([spent for spent in finishes if spent])

    def submit(self, prompt: TokenInput, worker: str | None = None) -> int:
        """Place one request, and let it begin; return what placing took."""
        scheduler, clock = self.scheduler, time.perf_counter_ns
        self.now += STEP
        self.number += 1
        number = self.number
        began = clock()
        placement = scheduler.submit(number, prompt, worker=worker, now=self.now)
        spent = clock() - began
        scheduler.started(number, cached_tokens=placement.cached_tokens, now=self.now)
        scheduler.first_token(number, now=self.now)
        self.flying.append(number)
        return spent

    def finish(self) -> int:
        """Finish the oldest request if too many are in flight; return what that took, or 0."""
        return self.end() if len(self.flying) > IN_FLIGHT else 0

    def end(self) -> int:
        """Finish the oldest request; return what that took."""
        number, clock = self.flying.popleft(), time.perf_counter_ns
        began = clock()
        self.scheduler.finish(number, output=OUTPUT, now=self.now)
        return clock() - began
