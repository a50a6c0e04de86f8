"""The command: run all, print the tables, and write them down."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

import msgspec

from bench.failover import __doc__ as about
from bench.failover.kinds import HEALTHY
from bench.failover.runs import FULL, QUICK, Run, measure
from bench.failover.tables import as_it_should_be, document, tables, verdict
from bench.progress import progress
from bench.report import command_line, commit, machine, page, save


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; return 0, or 1 if a request failed before its deadline or was answered with other tokens."""
    parser = command_line(about)
    parser.add_argument("--quick", action="store_true", help="fewer kinds and requests, under a minute")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there")
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else FULL
    with progress("failover", scale.runs) as done:
        runs = asyncio.run(measure(scale, done))
    sys.stdout.write("\n\n".join([*tables(runs), verdict(runs)]) + "\n\n")
    page(options.markdown, document(runs, machine(), commit(), quick=options.quick))
    save(options.json, "failover", metrics(runs), quick=options.quick, runs=msgspec.to_builtins(runs))
    return 0 if as_it_should_be(runs) else 1


def metrics(runs: Sequence[Run]) -> dict[str, float]:
    """Return what the tables say, in one name each."""
    healthy = {(run.fleet, run.policy): run.ttft_mean for run in runs if run.kind == HEALTHY}
    found: dict[str, float] = {}
    for run in runs:
        name, best = f"{run.fleet}, {run.kind}, {run.policy}", healthy[run.fleet, run.policy]
        found |= {f"{name}: failed": run.failed, f"{name}: sent again": run.again}
        if run.ttft_mean is not None and best:
            found[f"{name}: TTFT mean ratio"] = run.ttft_mean / best
    return found


if __name__ == "__main__":
    logging.getLogger("preble").setLevel(logging.CRITICAL)  # of what is bad on purpose nobody needs to hear
    sys.exit(main())
