"""Bytes per unique token stored: a fresh process for each prompt length, resident pages before and after the fill.

`python -m bench.micro.memory LENGTH REQUESTS` prints the figure; prompts are made one at a time and not kept.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

from bench.micro.prompts import Prompts
from bench.micro.served import Served


def bytes_per_token(length: int, requests: int) -> float:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "bench.micro.memory", str(length), str(requests)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return float(done.stdout)


def measure(length: int, requests: int) -> float:
    """Fill a scheduler of 64 workers; return the growth of this process per unique token in the tree."""
    prompts = Prompts(length, requests)
    prompts.share_out()  # the prefixes are ours, not the scheduler's
    served = Served(workers=64)
    before = resident()
    served.fill(islice(prompts, requests))
    used = resident() - before
    return used / served.scheduler.tree.tokens


def resident() -> int:
    """Return this process's resident bytes after a full collection."""
    gc.collect()
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(measure(int(sys.argv[1]), int(sys.argv[2])))
