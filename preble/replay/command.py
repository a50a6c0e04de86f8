"""`preble replay`: a decision log decided again, and what would differ, as text or as JSON."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import msgspec

from preble.core.log import MAX_LINE
from preble.core.policies import POLICIES
from preble.core.scheduler import Placement
from preble.replay import Comparison, Totals, replay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command understands to its parser."""
    parser.add_argument("log", type=Path, metavar="LOG", help="a decision log; it holds prompts and outputs")
    parser.add_argument("--policy", help=f"{', '.join(POLICIES)} (the log's own)")
    parser.add_argument("--seed", type=int, metavar="N", help="of ties (the log's own)")
    parser.add_argument("--first", type=int, default=10, metavar="N", help="differing requests shown (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status. Raises ConfigurationError, OSError."""
    with arguments.log.open("rb") as file:
        lines = iter(partial(file.readline, MAX_LINE + 2), b"")
        comparison = replay(lines, arguments.policy, seed=arguments.seed, first=arguments.first)
    shown = msgspec.json.encode(comparison).decode() if arguments.json else "\n".join(report(comparison))
    sys.stdout.write(shown + "\n")
    return 0


def report(comparison: Comparison) -> list[str]:
    """The lines that a person reads: counts, each side's totals, and the first requests that differ."""
    assigned = f" ({comparison.assigned_by_caller} assigned by the caller)" if comparison.assigned_by_caller else ""
    moves = f"; {comparison.moves} moves were proposed" if comparison.moves else ""
    other = f", {comparison.moves_differing} times others now" if comparison.moves_differing else ""
    return [
        f"{comparison.differing} of {comparison.requests} requests differ{assigned}{moves}{other}",
        *_side("recorded", comparison.recorded),
        *_side("replayed", comparison.replayed),
        *(
            f"  {difference.id}: {_place(difference.recorded)} -> {_place(difference.replayed)}"
            for difference in comparison.first
        ),
    ]


def _side(name: str, totals: Totals) -> list[str]:
    shares = ", ".join(f"{worker} {count}" for worker, count in sorted(totals.requests.items()))
    return [f"{name}: {totals.cached_tokens} tokens cached, {totals.predicted_ttft:.3f} s to first tokens; {shares}"]


def _place(placement: Placement) -> str:
    return (
        f"{placement.worker} ({placement.reason}, {placement.cached_tokens} cached, {placement.predicted_ttft:.3f} s)"
    )
