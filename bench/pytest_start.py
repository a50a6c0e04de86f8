"""What the pytest plugin costs: a start of pytest with and without it, and the start of its cluster.

Run `python -m bench.pytest_start [--runs N]`. It prints medians of CPU time, which a busy machine changes less than the
clock's, and the spread between the quartiles. The first cluster of a process imports what all need.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

WITH = ("-p", "preble.pytest_plugin")
_ALONE = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Without other plugins, whose start would be the greater part."""

_EMPTY = "def test_it(): pass\n"
_CLUSTER = """
import time
from preble.pytest_plugin.start import described

def test_it(pytestconfig):
    for _ in range(2):
        began = time.process_time()
        with described(pytestconfig, {}):
            print("STARTED", time.process_time() - began)
"""


def run(folder: Path, code: str, *arguments: str) -> tuple[float, str]:
    """Return the CPU seconds that pytest takes for one test file, and its output."""
    file = folder / "test_it.py"
    file.write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *arguments, str(file)]
    before = _children()
    done = subprocess.run(command, cwd=folder, env=_ALONE, capture_output=True, text=True, check=True)
    return _children() - before, done.stdout


def _children() -> float:
    """The CPU seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # os.times counts hundredths
    return used.ru_utime + used.ru_stime


def line(what: str, seconds: Sequence[float]) -> str:
    """Return a row of the table: times in milliseconds."""
    low, _, high = quantiles(seconds, n=4)
    return f"{what:32} {1000 * median(seconds):8.1f} ms   quartiles {1000 * low:.1f} to {1000 * high:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, in turns, so that all meet the same noise."""
    parser = argparse.ArgumentParser(prog="python -m bench.pytest_start", description=__doc__)
    parser.add_argument("--runs", type=int, default=30, help="at least 2 (default: 30)")
    runs = max(2, parser.parse_args(arguments).runs)
    without, added, first, later = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(runs):
            without.append(run(folder, _EMPTY)[0])
            added.append(run(folder, _EMPTY, *WITH)[0] - without[-1])
            shown = run(folder, _CLUSTER, *WITH)[1]
            one, two = (float(part.split()[0]) for part in shown.split("STARTED")[1:])
            first.append(one)
            later.append(two)
    print(line("pytest, without the plugin", without))
    print(line("added by the plugin", added))
    print(line("first in-process cluster", first))
    print(line("later in-process clusters", later))
    return 0


if __name__ == "__main__":
    sys.exit(main())
