"""With the parts in C and without each of them, in turns: `python -m bench.micro --compare-native`.

Each side is a process of its own, of which all but the first cannot import one of these parts, or any of them, so that
preble takes the twin in Python. All are pinned to one core and wait while another one measures. A figure is the median
over rounds; a ratio is the median over rounds of what that side took to what the side with all parts took.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from bench.micro.cases import CASES
from bench.micro.figures import Figures, turns
from bench.report import table
from preble import native

ALL = "all in C"
ROUNDS = 10
_SIDE = """
import sys
sys.modules.update(dict.fromkeys({missing}))
from bench.micro import cases, rows
cases.serve(rows.{scale})
"""


def compare(figures: Figures, scale: str, rounds: int) -> str:
    """Measure all cases at a scale of `bench.micro.rows` on all sides; note the ratios; return them as a table.

    Raises SystemExit if no part was built.
    """
    with ExitStack() as stack:
        sides = {name: stack.enter_context(_side(missing, scale)) for name, missing in _missing().items()}
        for case in CASES:
            _measure(figures, sides, case, rounds)
            sys.stderr.write(f"{case} done\n")
    heads = ["", "all in C, µs", *(f"{side}, ratio" for side in sides if side != ALL)]
    return table(heads, _rows(figures.metrics, list(sides)))


def _missing() -> dict[str, list[str]]:
    """Return by side the parts that it does without."""
    parts = [name for name, used in native().items() if used]
    if not parts:
        raise SystemExit("no part in C was built, see `preble --version -v`")
    each = {f"without {part.rpartition('.')[2]}": [part] for part in parts}
    return {ALL: [], **each, "none in C": parts}


@contextmanager
def _side(missing: list[str], scale: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _SIDE.format(missing=missing, scale=scale)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process  # its standard input is closed at the end, and with it the process ends


def _measure(figures: Figures, sides: dict[str, subprocess.Popen[str]], case: str, rounds: int) -> None:
    for process in sides.values():
        _ask(process, case)  # it fills its scheduler first
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _, side in turns(list(sides), rounds):
        taken[side].append(_ask(sides[side], case))
    for side, each in taken.items():
        figures.note(f"{case}, {side}", each if side == ALL else np.array(each) / np.array(taken[ALL]))


def _ask(process: subprocess.Popen[str], case: str) -> float:
    assert process.stdin
    assert process.stdout
    process.stdin.write(case + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _rows(metrics: dict[str, float], sides: list[str]) -> Iterable[list[str]]:
    for case in CASES:
        first, *others = (metrics[f"{case}, {side}"] for side in sides)
        yield [case, f"{first:.1f}", *(f"{ratio:.2f}" for ratio in others)]
