"""The result as Markdown: a table for each fleet, and whether it is as it should be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.failover import __doc__ as about
from bench.failover.kinds import HEALTHY, TWO
from bench.failover.runs import Run
from bench.report import table

_HEADS = [
    "the bad one",
    "policy",
    "failed",
    "TTFT mean",
    "TTFT p95",
    "sent again",
    "at the bad one, until left out",
    "in all",
]
_TITLES = {"replicas": "Replicas behind URLs", "workers": "Worker processes"}


def document(runs: Sequence[Run], machine: dict[str, Any], commit: str | None, *, quick: bool) -> str:
    """Return the page: what was run where, the tables, and the verdict."""
    said = (about or "").partition("\n\n")[2].strip()
    date = datetime.now(UTC).date().isoformat()
    made = (
        f"Made by `python -m bench.failover{' --quick' if quick else ''}` on {date}, commit {commit}: "
        f"{machine['cpu']}, {machine['usable_cores']} cores, Python {machine['python']}, "
        f"load average {machine['load_average']['before'][0]:.1f} before and "
        f"{machine['load_average']['after'][0]:.1f} after."
    )
    return "\n\n".join(["# One bad worker of three", made, said, *tables(runs), verdict(runs)]) + "\n"


def tables(runs: Sequence[Run]) -> list[str]:
    """Return each fleet's title and table."""
    parts = []
    for fleet in dict.fromkeys(run.fleet for run in runs):
        mine = [run for run in runs if run.fleet == fleet]
        healthy = {run.policy: run for run in mine if run.kind == HEALTHY}
        rows = [_row(run, healthy[run.policy]) for run in mine]
        parts += [f"## {_TITLES[fleet]}", f"{mine[0].requests} requests in each row.", table(_HEADS, rows, words=2)]
    return parts


def verdict(runs: Iterable[Run]) -> str:
    """Say whether every request was answered, and rightly."""
    failed = sum(run.failed - run.late for run in runs)
    differing, late = sum(run.differing for run in runs), sum(run.late for run in runs)
    if not failed and not differing and not late:
        return "Every request was answered, with the tokens of healthy workers."
    return (
        f"{failed} requests failed, {late} more ended at their deadline, {differing} were answered with other tokens."
    )


def as_it_should_be(runs: Iterable[Run]) -> bool:
    """Whether no request failed, but for its own deadline, and all were answered with the right tokens."""
    return not any(run.failed - run.late or run.differing for run in runs)


def _row(run: Run, healthy: Run) -> list[str]:
    failed = f"{run.failed}" + (f" ({run.late})" if run.late else "")
    if run.kind == HEALTHY:
        return [run.kind, run.policy, failed, *map(_seconds, (run.ttft_mean, run.ttft_p95)), str(run.again), "", ""]
    ratios = [_ratio(run.ttft_mean, healthy.ttft_mean), _ratio(run.ttft_p95, healthy.ttft_p95)]
    if run.kind == TWO:
        return [run.kind, run.policy, failed, *ratios, str(run.again), "", ""]
    before = "-" if run.before_left_out is None else str(run.before_left_out)
    return [run.kind, run.policy, failed, *ratios, str(run.again), before, str(run.at_bad)]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _ratio(value: float | None, healthy: float | None) -> str:
    return "-" if value is None or not healthy else f"{value / healthy:.2f}x"
