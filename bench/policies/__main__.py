"""The command: measure what is missing, a process per core, and report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from bench.policies import __doc__ as about
from bench.policies.board import LOADS, OURS, SEEDS, Board, Bound, Cell, Sustained, read
from bench.policies.cases import GENERATED, RECORDED, cases
from bench.policies.figures import draw
from bench.policies.measure import Job, measure
from bench.policies.plan import Plan, known
from bench.policies.tables import markdown
from bench.progress import progress
from bench.report import command_line, commit, cores, folder, machine, page, positive
from preble.core.policies import POLICIES
from preble.wait_queue.disciplines import DEFAULT as DEFAULT_QUEUE
from preble.wait_queue.disciplines import DISCIPLINES

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
    page(path.with_suffix(".md"), text)
    sys.stdout.write(text)
    return 0


def run(options: argparse.Namespace, path: Path) -> Board:
    """Measure what the file at `path` lacks, and write it after each result."""
    plan = _plan(options)
    board = _board(options, plan, path)
    for title, jobs in (
        ("first sustained", plan.first),
        ("all sustained", plan.others),
        ("cells", plan.cells),
    ):
        missing = [job for job in jobs(board) if not known(board, job)]
        with progress(title, len(missing)) as advance:
            for result in results(missing, options.jobs):
                board.add(result)
                board.machine = machine()
                board.save(path)
                advance()
    return board


def results(jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """Yield what came of each job, as it ends."""
    if processes == 1:
        yield from map(measure, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(measure, job) for job in jobs]):
            yield done.result()


def _plan(options: argparse.Namespace) -> Plan:
    found = cases(options.traces)
    names = options.workload or (QUICK if options.quick else found)
    if missing := [name for name in names if name not in found]:
        raise SystemExit(f"traces are not there, see --traces: {', '.join(missing)}")
    policies = options.policy or (QUICK_POLICIES if options.quick else POLICIES)
    return Plan(
        {name: found[name] for name in names},
        sorted(policies, key=OURS.__ne__),
        options.load or LOADS,
        options.seeds or (1 if options.quick else SEEDS),
        options.requests or (QUICK_REQUESTS if options.quick else None),
        options.peers_queue,
    )


def _board(options: argparse.Namespace, plan: Plan, path: Path) -> Board:
    """Return the board to fill in: that of the file to be taken up again, or a new one. Raises SystemExit."""
    if options.resume and path.exists():
        board = read(path)
        if board.settings != plan.settings:
            raise SystemExit(f"{path}: of other settings, {board.settings} instead of {plan.settings}")
        return board
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Board(date=date, commit=commit(), machine=machine(), settings=plan.settings)


def _parser() -> argparse.ArgumentParser:
    parser = command_line(about)
    parser.add_argument("--quick", action="store_true", help="a few small cells of one seed")
    parser.add_argument("--resume", action="store_true", help="keep what the file has, measure the rest")
    parser.add_argument("--table", metavar="FILE", help="render a result's tables and figures, measure nothing")
    parser.add_argument("--traces", type=folder, metavar="DIR", help="recorded traces, as far as they are there")
    parser.add_argument(
        "--workload", action="append", choices=[*GENERATED, *RECORDED], metavar="NAME", help="repeatable (all)"
    )
    parser.add_argument("--policy", action="append", choices=POLICIES, metavar="NAME", help="repeatable (all)")
    parser.add_argument(
        "--load", action="append", type=positive(float), metavar="PART", help="repeatable (0.5, 0.8, 0.95)"
    )
    parser.add_argument("--seeds", type=positive(int), metavar="N", help=f"of each cell ({SEEDS})")
    parser.add_argument("--requests", type=positive(int), metavar="N", help="of each cell (each workload's own)")
    parser.add_argument(
        "--peers-queue",
        choices=DISCIPLINES,
        default=DEFAULT_QUEUE,
        help="order of queues under the peers (%(default)s)",
    )
    parser.add_argument("--jobs", type=positive(int), default=cores(), metavar="N", help="processes (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
