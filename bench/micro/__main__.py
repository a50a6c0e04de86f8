"""The command: run every row, report, and say whether the machine was ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bench.micro import __doc__ as about
from bench.micro import rows
from bench.micro.core import BUSY, Watch, pin
from bench.micro.figures import Figures, calibrate
from bench.micro.memory import bytes_per_token
from bench.micro.native import ROUNDS, compare
from bench.micro.pause import pauses
from bench.peers.beside import beside
from bench.report import command_line, save

ROWS = (rows.decisions, rows.kinds, rows.workers, rows.tree, rows.lengths, rows.chains, rows.evicting)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = command_line(about)
    parser.add_argument("--quick", action="store_true", help="small trees and few queries, to see that it works")
    parser.add_argument("--peers", action="store_true", help="install and measure other systems too, into out/peers")
    parser.add_argument("--compare-native", action="store_true", help="with the parts in C and without each, in turns")
    options = parser.parse_args(argv)
    if options.compare_native:
        return compare_native(options.json, options.quick)
    scale, figures = rows.QUICK if options.quick else rows.FULL, Figures()
    core, load, watch = pin(), os.getloadavg(), Watch()
    measure(figures, scale)
    taken = watch.taken()
    remember(figures, scale)
    peers = beside(figures, scale) if options.peers else {}
    machine = {"core": core, "load_average": [load, os.getloadavg()], "taken_by_others": taken, "busy": taken > BUSY}
    save(options.json, "micro", figures.metrics, spread=figures.spread, run=machine, peers=peers, quick=options.quick)
    if taken > BUSY:
        sys.stderr.write(f"Other processes had {taken:.0%} of this core: not a run to publish.\n")
    return 0


def compare_native(path: str | None, quick: bool) -> int:
    """Measure the parts in C alone."""
    core, figures = pin(), Figures()
    shown = compare(figures, "QUICK" if quick else "FULL", 2 if quick else ROUNDS)
    save(path, "micro-native", figures.metrics, spread=figures.spread, run={"core": core}, quick=quick)
    sys.stdout.write(f"\n{shown}\n")
    return 0


def measure(figures: Figures, scale: rows.Scale) -> None:
    """Time everything that runs in this process."""
    figures.note("calibration_pack_8k_us", calibrate())
    for row in ROWS:
        row(figures, scale)
        sys.stderr.write(f"{row.__name__} done\n")
    for name, value in pauses(rows.LENGTH, rows.WORKERS, scale.stream).items():
        figures.note(name, [value])


def remember(figures: Figures, scale: rows.Scale) -> None:
    """Measure memory, each prompt length in a process of its own."""
    for length in (1024, 8192):
        figures.note(f"bytes_per_token_{length // 1024}k", [bytes_per_token(length, scale.requests)])


if __name__ == "__main__":
    sys.exit(main())
