"""A scheduler that remembers how long its decisions took."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any

from preble.core.scheduler import Placement, Scheduler


class Timed:
    """Everything goes to `scheduler`; `nanoseconds` are the calling thread's CPU time of each `submit`, in order."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.nanoseconds: list[int] = []
        self._scheduler = scheduler

    def submit(self, id: Hashable, tokens: bytes, **about: Any) -> Placement:
        """Place a request, on the clock."""
        began = time.thread_time_ns()
        placement = self._scheduler.submit(id, tokens, **about)
        self.nanoseconds.append(time.thread_time_ns() - began)
        return placement

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)
