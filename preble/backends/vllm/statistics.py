"""The statistics that vLLM has after each step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

OnStep = Callable[[Any, bool, float], None]
"""Called after each step: its SchedulerIterationDetails, whether no request is left, and the time in seconds."""


class LastStep(StatLoggerBase):  # type: ignore[misc]
    """Keeps the state after the last step: the requests in vLLM's own queue, and the share of KV blocks in use.

    `on_step` is called in the thread in which vLLM makes its statistics.
    """

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self.waiting = 0
        self.used = 0.0

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Take in a step."""
        if scheduler_stats is not None:
            self.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.used = scheduler_stats.kv_cache_usage
            idle = not (self.waiting or scheduler_stats.num_running_reqs)
            self._on_step(scheduler_stats.iteration_details, idle, time.monotonic())

    def log_engine_initialized(self) -> None:
        """Do nothing."""
