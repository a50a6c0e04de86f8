"""What the cluster tests share: options of `sim` clusters, and a look at the operating system."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from preble import PrebleCluster, SamplingParams

GREEDY = SamplingParams(max_tokens=8, temperature=0.0)
SLOW = {"time_scale": 1.0, "cost": "mistral-7b-a6000"}
"""Engine options of a simulated GPU in real time: 24 ms a decode step."""


def prompt(number: int, length: int = 64) -> list[int]:
    """A prompt that shares nothing with those of other numbers."""
    return [(number * 131 + index * 7) % 30_000 + 10 for index in range(length)]


async def eventually(condition: Callable[[], bool], patience: float = 10.0) -> None:
    """Wait until `condition` holds; fail if it does not in time."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> set[int]:
    """All processes below `pid`."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | descendants(child)
    return found


def environment(pid: int) -> dict[str, str]:
    """What a process began with: all that its libraries could read while they were loaded."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def links() -> set[str]:
    """Directories of cluster sockets in the temporary folder."""
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("preble-")}


def serving(cluster: PrebleCluster) -> list[str]:
    """The names of the workers that are not lost."""
    return [worker.worker for worker in cluster.stats().workers if worker.status != "lost"]
