"""The command: run all cells, or read them from an earlier result, and report them beside the paper's figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.paper import __doc__ as about
from bench.paper import cells
from bench.paper.figures import draw
from bench.paper.result import Document, document, read
from bench.paper.run import Results, alone, jobs, pooled, run
from bench.paper.tables import ablation, azure, baselines, beyond, claims, markdown
from bench.progress import progress
from bench.report import command_line, cores, page, positive, write

QUICK_REQUESTS = 150


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print and write what was asked for."""
    options = parse(argv)
    found = read(options.read) if options.read else document(measure(options))
    for part in (claims, azure, ablation, beyond, baselines):
        sys.stdout.write("\n".join(part(found.results)) + "\n\n")
    save(found, options)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(about)
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="write the figures there")
    parser.add_argument("--read", metavar="FILE", type=Path, help="run nothing: report an earlier --json")
    parser.add_argument("--requests", metavar="N", type=positive(int), help="at most so many in a cell (the paper's)")
    parser.add_argument(
        "--seeds", metavar="N", type=positive(int), default=1, help="take means of so many (%(default)s)"
    )
    parser.add_argument("--jobs", metavar="N", type=positive(int), default=cores(), help="processes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="the lowest and highest rates, few requests")
    options = parser.parse_args(argv)
    options.requests = options.requests or (QUICK_REQUESTS if options.quick else None)
    return options


def measure(options: argparse.Namespace) -> Results:
    """Run every part."""
    parts = {
        "sweep": (cells.sweep(), cells.CONTENDERS),
        "azure": (cells.azure(), cells.CONTENDERS),
        "ablation": (cells.ablation(), cells.ABLATION),
        "beyond": (cells.beyond(), cells.CONTENDERS),
        "baselines": (cells.baselines(), cells.BASELINES),
    }
    chosen = {name: (trimmed(found, options), contenders) for name, (found, contenders) in parts.items()}
    work = [job for found, contenders in chosen.values() for job in jobs(found, contenders, options.seeds)]
    panels = {cell.panel: cell for cell in chosen["sweep"][0]}
    with progress("simulating", len({job.key for job in work})) as done:
        outcomes = run(work, options.jobs, done)
    with progress("alone", len(panels)) as done:
        bounds = pooled(alone, list(panels.values()), options.jobs, done)
    return Results(
        **{name: found for name, (found, _) in chosen.items()},
        outcomes=outcomes,
        alone=dict(zip(panels, bounds, strict=True)),
        seeds=options.seeds,
    )


def trimmed(found: Sequence[cells.Cell], options: argparse.Namespace) -> list[cells.Cell]:
    """The cells with no more requests than asked for; if quick, of each workload and cluster the first and the last."""
    if options.quick:
        rates: dict[str, list[cells.Cell]] = {}
        for cell in found:
            rates.setdefault(cell.panel, []).append(cell)
        found = list({cell.name: cell for each in rates.values() for cell in (each[0], each[-1])}.values())
    most = options.requests
    return [msgspec.structs.replace(cell, requests=min(cell.requests, most or cell.requests)) for cell in found]


def save(found: Document, options: argparse.Namespace) -> None:
    """Write the files that were asked for."""
    if options.json:
        write(Path(options.json), msgspec.to_builtins(found))
    if options.markdown:
        page(options.markdown, markdown(found))
    if options.figures:
        draw(found.results, options.figures)


if __name__ == "__main__":
    sys.exit(main())
