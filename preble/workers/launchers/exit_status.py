"""Exit statuses in words, and what the kernel knows of processes that it killed."""

from __future__ import annotations

import signal
from pathlib import Path


def in_words(status: int, *, out_of_memory: bool = False) -> str:
    """Say what an exit status means: `exit status 3`, or for a negative one `killed by SIGSEGV`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"killed by {name}" + (", probably because memory ran out" if out_of_memory else "")


def kills_for_memory(path: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes of this machine were killed so far because memory ran out; 0 if nobody knows."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(count) for name, _, count in (line.partition(" ") for line in lines) if name == "oom_kill")
