"""The command: measure what is missing, a process per core, and report."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.policies import __doc__ as about
from bench.policies.board import LOADS, OURS, Board, Bound, Cell, Sustained, read
from bench.policies.cases import cases
from bench.policies.figures import draw
from bench.policies.measure import Job, measure
from bench.policies.tables import markdown
from bench.progress import progress
from bench.report import command_line, commit, machine
from preble.core.policies import POLICIES

QUICK = ("toolbench", "videoqa", "splits")
QUICK_POLICIES = (OURS, "e2-paper", "round-robin", "session-hash", "sglang-cache-aware", "dynamo-kv")
QUICK_REQUESTS = 300
DEFAULT = "out/policies.json"

Result = Cell | Sustained | Bound


def main(argv: Sequence[str] | None = None) -> int:
    """Measure or read, print the tables, write them and the figures beside the JSON."""
    options = _parser().parse_args(argv)
    path = Path(options.table or options.json or DEFAULT)
    board = read(path) if options.table else run(options, path)
    text = markdown(board, draw(board, path.parent, path.stem))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


def run(options: argparse.Namespace, path: Path) -> Board:
    """Measure what the file at `path` lacks, and write it after each result."""
    plan = Plan(options)
    board = _board(options, plan, path)
    for title, jobs in (
        (f"{OURS} sustains", plan.first),
        ("others sustain", plan.others),
        ("cells", plan.cells),
    ):
        missing = [job for job in jobs(board) if not _known(board, job)]
        with progress(title, len(missing)) as advance:
            for result in results(missing, options.jobs):
                board.add(result)
                board.machine = machine()
                board.save(path)
                advance()
    return board


class Plan:
    """Which jobs there are, in three parts of which each needs the results of the one before."""

    def __init__(self, options: argparse.Namespace) -> None:
        known = cases(options.traces)
        self._cases = {name: known[name] for name in options.workload or (QUICK if options.quick else known)}
        self._policies = tuple(options.policy or (QUICK_POLICIES if options.quick else POLICIES))
        self._loads = options.load or LOADS
        self._seeds = tuple(range(1 if options.quick else options.seeds))
        self._requests = QUICK_REQUESTS if options.quick else options.requests
        self._leader = OURS if OURS in self._policies else self._policies[0]

    @property
    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        sizes = {name: self._requests or case.requests for name, case in self._cases.items()}
        return {"seeds": list(self._seeds), "requests": sizes}

    def first(self, _: Board) -> list[Job]:
        """What the policy sustains from which the others' searches start."""
        return [self._job(name, case.rate, self._leader) for name, case in self._cases.items()]

    def others(self, board: Board) -> list[Job]:
        """What the others sustain."""
        return [
            self._job(name, board.best_rate(name) or case.rate, policy)
            for name, case in self._cases.items()
            for policy in self._policies
            if policy != self._leader
        ]

    def cells(self, board: Board) -> list[Job]:
        """Cells and bounds."""
        return [
            self._job(name, board.best_rate(name) * load, policy, load)
            for name in self._cases
            for load in self._loads
            for policy in (None, *self._policies)
        ]

    def _job(self, name: str, rate: float, policy: str | None, load: float | None = None) -> Job:
        case = self._cases[name]
        requests = self._requests or case.requests
        return Job(workload=name, case=case, requests=requests, seeds=self._seeds, rate=rate, policy=policy, load=load)


def results(jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """Yield what came of each job, as it ends."""
    if processes == 1:
        yield from map(measure, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(measure, job) for job in jobs]):
            yield done.result()


def _known(board: Board, job: Job) -> bool:
    if job.load is None:
        return board.searched(job.workload, str(job.policy))
    return board.has((job.workload, job.policy or "", job.load), job.rate)


def _board(options: argparse.Namespace, plan: Plan, path: Path) -> Board:
    """Return the board to fill in: that of the file to be taken up again, or a new one. Raises ValueError."""
    if options.resume and path.exists():
        board = read(path)
        if board.settings != plan.settings:
            raise ValueError(f"{path}: of other settings, {board.settings} instead of {plan.settings}")
        return board
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Board(date=date, commit=commit(), machine=machine(), settings=plan.settings)


def _parser() -> argparse.ArgumentParser:
    parser = command_line(about)
    parser.add_argument("--quick", action="store_true", help="a few small cells of one seed")
    parser.add_argument("--resume", action="store_true", help="keep what the file has, measure the rest")
    parser.add_argument("--table", metavar="FILE", help="render a result's tables and figures, measure nothing")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="recorded traces, as far as they are there")
    parser.add_argument("--workload", action="append", metavar="NAME", help="repeatable (all)")
    parser.add_argument("--policy", action="append", choices=POLICIES, metavar="NAME", help="repeatable (all)")
    parser.add_argument("--load", action="append", type=float, metavar="PART", help="repeatable (0.5, 0.8, 0.95)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of each cell (%(default)s)")
    parser.add_argument("--requests", type=int, metavar="N", help="of each cell (each workload's own)")
    parser.add_argument("--jobs", type=int, default=_cores(), metavar="N", help="processes (%(default)s)")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
