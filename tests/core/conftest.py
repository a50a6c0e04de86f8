from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from preble.core.cost import CostModel
from preble.core.policy import Policy
from preble.core.scheduler import Scheduler

LINEAR = CostModel(pieces=((0, 0.0, 1.0, 0.0),))
"""A millisecond per new token and nothing else: seconds that a test can count on its fingers."""

FLAT = {"weight": 2.5, "busy": 0.0, "beside": 0.0, "delay": 0.0}
"""For `E2`: a miss counts 2.5 times, whoever is busy."""


@pytest.fixture
def new_scheduler() -> Iterator[Callable[..., Scheduler]]:
    """Makes schedulers with linear workers; their invariants are checked at the end of the test."""
    made: list[Scheduler] = []

    def make(workers: str = "ab", *, policy: str | Policy = "e2", kv_tokens: int = 1000, **options: Any) -> Scheduler:
        scheduler = Scheduler(policy)
        for worker in workers:
            scheduler.add_worker(worker, kv_tokens=kv_tokens, cost=LINEAR, now=0.0, **options)
        made.append(scheduler)
        return scheduler

    yield make
    for scheduler in made:
        scheduler.check()


@pytest.fixture
def scheduler(new_scheduler: Callable[..., Scheduler]) -> Scheduler:
    """Two linear workers, `a` and `b`, with a cache of 1000 tokens each."""
    return new_scheduler()
