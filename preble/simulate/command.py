"""`preble simulate`: policies side by side on one workload, as a table or as JSON."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from preble.backends.sim import SimOptions
from preble.core.cost import PRESETS
from preble.core.policies import POLICIES
from preble.errors import ConfigurationError
from preble.simulate import Bounds, Request, Summary, bounds, simulate
from preble.simulate.generated import generated
from preble.simulate.traces import FORMATS, load
from preble.wait_queue.disciplines import DEFAULT, DISCIPLINES

_COLUMNS = (
    "ttft_mean",
    "ttft_p50",
    "ttft_p99",
    "latency_mean",
    "latency_p99",
    "tpot_mean",
    "hit_ratio",
    "imbalance",
    "rate",
)
_COUNTS = ("failed", "moved", "retries", "preemptions", "recomputed")
"""Shown where one of them is not zero."""
_EXAMPLES = """examples:
  preble simulate --trace conversation.jsonl.gz --format blocks --requests 2000 --policy e2 --policy round-robin
  preble simulate --workload bench.workloads:toolbench --rate 20 --requests 2000 --workers 4
  preble simulate --workload bench.workloads:toolbench --rate 20 --requests 2000 \\
    --worker kv_tokens=400000,cost=mistral-7b-a100 --worker kv_tokens=100000,count=2

The last row of the table is what no scheduler can beat: each request alone, on the first worker, with every earlier
prompt cached.
"""
_BAR = 30
_SECONDS_BETWEEN = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command understands to its parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    what = parser.add_argument_group("what is served")
    source = what.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", metavar="FILE", help="a trace file; may end in .gz")
    source.add_argument(
        "--workload",
        metavar="MODULE:FUNCTION",
        help="called with rate, requests and seed as far as they are given; modules of the current folder are found",
    )
    what.add_argument("--format", choices=FORMATS, default="segments", help="of the trace (%(default)s)")
    what.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="replay a trace X times as fast (%(default)s)"
    )
    what.add_argument("--rate", type=float, metavar="R", help="requests a second of a generated workload")
    what.add_argument("--requests", type=int, metavar="N", help="size of a generated workload; of a trace, the first N")
    by = parser.add_argument_group("by whom")
    by.add_argument("--policy", action="append", help=f"repeatable: {', '.join(POLICIES)} (all)")
    by.add_argument("--workers", type=int, default=4, metavar="N", help="engines that are alike (%(default)s)")
    by.add_argument("--kv-tokens", type=int, default=200_000, metavar="N", help="KV cache of each (%(default)s)")
    by.add_argument("--cost", choices=PRESETS, default="mistral-7b-a6000", help="what steps take (%(default)s)")
    by.add_argument(
        "--worker",
        action="append",
        metavar="NAME=VALUE,...",
        help="repeatable, in place of --workers: one engine that differs in these fields of SimOptions; "
        "count=N stands for N of it",
    )
    by.add_argument("--discipline", choices=DISCIPLINES, default=DEFAULT, help="order of the wait queues (%(default)s)")
    parser.add_argument(
        "--report-delay", type=float, default=0.0, metavar="S", help="seconds until engines are heard (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the workload and of ties (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status. Raises ConfigurationError, OSError."""
    requests, workers = _requests(arguments), _workers(arguments)
    summaries = {
        policy: simulate(
            requests,
            policy=policy,
            workers=workers,
            discipline=arguments.discipline,
            seed=arguments.seed,
            report_delay=arguments.report_delay,
            progress=_progress(policy, len(requests)),
        ).summary()
        for policy in arguments.policy or POLICIES
    }
    show = _json if arguments.json else _table
    sys.stdout.write(show(summaries, bounds(requests, workers[0])) + "\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; return the exit status."""
    parser = argparse.ArgumentParser(prog="preble simulate", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


def _requests(arguments: argparse.Namespace) -> list[Request]:
    if arguments.speed <= 0 or (arguments.rate is not None and arguments.rate <= 0):
        raise ConfigurationError("speed and rate: must be above 0")
    if arguments.requests is not None and arguments.requests < 1:
        raise ConfigurationError(f"requests: must be at least 1, not {arguments.requests}")
    made = _made(arguments)
    if not made:
        raise ConfigurationError("requests: there are none")
    return made


def _made(arguments: argparse.Namespace) -> list[Request]:
    if arguments.trace:
        return load(arguments.trace, arguments.format, speed=arguments.speed)[: arguments.requests]
    given = {"rate": arguments.rate, "requests": arguments.requests, "seed": arguments.seed}
    return generated(arguments.workload, {name: value for name, value in given.items() if value is not None})


def _workers(arguments: argparse.Namespace) -> list[SimOptions]:
    alike = {"kv_tokens": arguments.kv_tokens, "cost": arguments.cost}
    words = arguments.worker or [f"count={arguments.workers}"]
    workers = [engine for each in words for engine in _kind(each, alike)]
    if not workers:
        raise ConfigurationError("workers: at least 1")
    return workers


def _kind(words: str, alike: dict[str, Any]) -> list[SimOptions]:
    """The engines of one `--worker`."""
    pairs = (word.partition("=") for word in words.split(","))
    fields = {**alike, **{name.strip(): value.strip() for name, _, value in pairs}}
    count = str(fields.pop("count", 1))
    if not count.isdecimal():
        raise ConfigurationError(f"worker: count={count} is not a number")
    try:
        options = msgspec.convert(fields, SimOptions, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"worker: {error}") from None
    return [options] * int(count)


def _progress(policy: str, total: int) -> Callable[[], object]:
    """Return what is called after each request: on a terminal it draws a bar on standard error."""
    if not sys.stderr.isatty():
        return bool
    began = shown = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, shown
        done += 1
        now = time.monotonic()
        if done == total or now - shown >= _SECONDS_BETWEEN:
            shown = now
            sys.stderr.write(_bar(policy, done, total, now - began) + ("\n" if done == total else ""))
            sys.stderr.flush()

    return advance


def _bar(policy: str, done: int, total: int, seconds: float) -> str:
    full = _BAR * done // total
    return f"\r{policy:<18.18} [{'#' * full}{'-' * (_BAR - full)}] {done:,}/{total:,} {seconds:.0f} s"


def _json(summaries: dict[str, Summary], bound: Bounds) -> str:
    return msgspec.json.format(msgspec.json.encode({"policies": summaries, "bounds": bound}), indent=2).decode()


def _table(summaries: dict[str, Summary], bound: Bounds) -> str:
    counted = tuple(name for name in _COUNTS if any(getattr(summary, name) for summary in summaries.values()))
    columns = _COLUMNS + counted
    lines = [f"{'policy':<18}" + "".join(f"{column:>14}" for column in columns)]
    rows: dict[str, Summary | Bounds] = {**summaries, "alone, all cached": bound}
    for name, row in rows.items():
        lines.append(f"{name:<18.18}" + "".join(_cell(getattr(row, column, None)) for column in columns))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return " " * 14
    return f"{value:>14,}" if isinstance(value, int) else f"{value:>14.3f}"
