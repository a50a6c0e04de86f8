"""`preble simulate`: policies side by side on one workload, as a table or as JSON."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from preble.backends.sim import SimOptions
from preble.core.cost import PRESETS
from preble.core.policies import POLICIES
from preble.errors import ConfigurationError
from preble.simulate import Bounds, Request, Summary, bounds, simulate
from preble.simulate.traces import FORMATS, load

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
_SHOWN = 20  # lines of progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command understands to its parser."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", metavar="FILE", help="a trace file; gzip by its name")
    source.add_argument("--workload", metavar="MODULE:FUNCTION", help="called with rate, requests and seed")
    parser.add_argument("--format", choices=FORMATS, default="segments", help="of the trace (%(default)s)")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="replay a trace X times as fast (%(default)s)"
    )
    parser.add_argument("--rate", type=float, metavar="R", help="requests a second of a generated workload")
    parser.add_argument(
        "--requests", type=int, metavar="N", help="size of a generated workload; of a trace, the first N"
    )
    parser.add_argument("--policy", action="append", help=f"repeatable: {', '.join(POLICIES)} (all)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="engines (%(default)s)")
    parser.add_argument("--kv-tokens", type=int, default=200_000, metavar="N", help="KV cache of each (%(default)s)")
    parser.add_argument("--cost", choices=PRESETS, default="mistral-7b-a6000", help="what steps take (%(default)s)")
    parser.add_argument(
        "--report-delay", type=float, default=0.0, metavar="S", help="until engines are heard (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of workload and ties (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status. Raises ConfigurationError, OSError."""
    requests = _requests(arguments)
    options = _options(arguments)
    summaries = {
        policy: simulate(
            requests,
            policy=policy,
            workers=arguments.workers,
            options=options,
            seed=arguments.seed,
            report_delay=arguments.report_delay,
            progress=_progress(policy, len(requests)),
        ).summary()
        for policy in arguments.policy or POLICIES
    }
    show = _json if arguments.json else _table
    sys.stdout.write(show(summaries, bounds(requests, options)) + "\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; return the exit status."""
    parser = argparse.ArgumentParser(prog="preble simulate", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


def _requests(arguments: argparse.Namespace) -> list[Request]:
    if arguments.speed <= 0 or (arguments.rate is not None and arguments.rate <= 0):
        raise ConfigurationError("speed and rate: must be above 0")
    if arguments.trace:
        return load(arguments.trace, arguments.format, speed=arguments.speed)[: arguments.requests]
    given = {"rate": arguments.rate, "requests": arguments.requests, "seed": arguments.seed}
    made: list[Request] = _function(arguments.workload)(
        **{name: value for name, value in given.items() if value is not None}
    )
    return made


def _options(arguments: argparse.Namespace) -> SimOptions:
    try:
        return msgspec.convert({"kv_tokens": arguments.kv_tokens, "cost": arguments.cost}, SimOptions)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"kv-tokens: {error}") from None


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"workload: {path!r} is not module:function ({error})") from error
    return found


def _progress(policy: str, total: int) -> Callable[[], None]:
    """Return what is called after each request: it counts them on a terminal's standard error."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty() and (done == total or done % max(1, total // _SHOWN) == 0):
            sys.stderr.write(f"\r{policy:<16} {done}/{total}" + ("\n" if done == total else ""))
            sys.stderr.flush()

    return advance


def _json(summaries: dict[str, Summary], bound: Bounds) -> str:
    return msgspec.json.format(msgspec.json.encode({"policies": summaries, "bounds": bound}), indent=2).decode()


def _table(summaries: dict[str, Summary], bound: Bounds) -> str:
    lines = [f"{'policy':<16}" + "".join(f"{column:>14}" for column in _COLUMNS)]
    rows: dict[str, Summary | Bounds] = {**summaries, "alone, all cached": bound}
    for name, row in rows.items():
        values = (getattr(row, column, None) for column in _COLUMNS)
        cells = (f"{'':>14}" if value is None else f"{value:>14.3f}" for value in values)
        lines.append(f"{name:<16.16}" + "".join(cells))
    return "\n".join(lines)
