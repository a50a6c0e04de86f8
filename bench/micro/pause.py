"""The worst pause while requests stream through: the slowest single step, and the slowest garbage collection.

A step is a finish, or a submit with what the worker reports after it. Timed on this thread's CPU clock, which other
processes do not advance and page faults do.
"""

from __future__ import annotations

import gc
import time
from itertools import islice
from typing import Any

from bench.micro.prompts import Prompts
from bench.micro.served import Served


class Collections:
    """Longest garbage collection, in nanoseconds of CPU time, while it is open."""

    def __init__(self) -> None:
        self.longest = self.began = 0

    def __enter__(self) -> Collections:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _: dict[str, Any]) -> None:
        if phase == "start":
            self.began = time.thread_time_ns()
        else:
            self.longest = max(self.longest, time.thread_time_ns() - self.began)


def pauses(length: int, workers: int, requests: int) -> dict[str, float]:
    """Stream requests through an empty scheduler; return the worst pauses in milliseconds."""
    before = full_collection()
    served = Served(workers=workers)
    clock, step = time.thread_time_ns, 0
    with Collections() as collections:
        for prompt in islice(Prompts(length, requests), requests):
            began = clock()
            served.submit(prompt)
            submitted = clock()
            served.finish()
            step = max(step, submitted - began, clock() - submitted)
    return {
        "worst_pause_ms": max(step, collections.longest) / 1e6,
        "worst_step_ms": step / 1e6,
        "worst_collection_ms": collections.longest / 1e6,
        "full_collection_growth_ms": max(0.0, full_collection() - before) * 1e3,
    }


def full_collection() -> float:
    """Return seconds of a full garbage collection when there is nothing to collect."""
    gc.collect()
    began = time.thread_time()
    gc.collect()
    return time.thread_time() - began
