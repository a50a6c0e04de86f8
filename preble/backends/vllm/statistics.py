"""What vLLM tells of itself after each step."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase


class LastStep(StatLoggerBase):  # type: ignore[misc]
    """Keeps the state after the last step: requests in vLLM's own line, and the share of KV blocks in use."""

    def __init__(self) -> None:
        self.waiting = 0
        self.used = 0.0

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Take in a step."""
        if scheduler_stats is not None:
            self.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.used = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        """Nothing to tell."""
