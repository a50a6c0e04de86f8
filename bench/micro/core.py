"""One core for the process that is measured, and how much of it others took."""

from __future__ import annotations

import os
import time

BUSY = 0.03
"""If others had more than this share of our time, the run is not to be published."""


def pin() -> int | None:
    """Keep this process on the last of its cores, where the system can; return which, or None."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


class Watch:
    """Wall and CPU time since it was made; what they differ by while we compute, others had."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def taken(self) -> float:
        """Return the share of wall time in which this process did not run."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return max(0.0, 1 - cpu / wall)
