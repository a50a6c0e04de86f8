"""The result as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bench.scale import __doc__ as about
from bench.scale.runs import RATE, SETS, Parts, Scale, Size

_SIZES = (
    "| workers | policy | decision p50, µs | p99, µs | p50 / least | p99 / least | hit ratio | TTFT mean, s | p99, s |"
)
_PARTS = "| schedulers | each gets | hit ratio | TTFT mean | TTFT p99 |"


def document(
    grown: Sequence[Size], split: Sequence[Parts], scale: Scale, machine: dict[str, Any], commit: str | None
) -> str:
    """Return a page with both tables, how they came about, and on which machine."""
    said = (about or "").partition("\n\n")[2].strip()
    date = datetime.now(UTC).date().isoformat()
    return "\n".join(
        [
            "# Scale\n",
            f"Made by `python -m bench.scale` on {date}, commit {commit}: {machine['cpu']}, {machine['usable_cores']} "
            f"cores, Python {machine['python']}, load average {machine['load_average']['before'][0]:.1f} before. "
            "Everything but the time of decisions is simulated, and the same on any machine.\n",
            f"{said}\n",
            "## Workers\n",
            f"{RATE:g} requests a second, {scale.per_worker} requests and {SETS} tool sets per worker. "
            f'"Least" is the same policy on {scale.sizes[0]} workers.\n',
            *_sizes(grown),
            "\n## Schedulers\n",
            f"`e2`, {scale.split_workers} workers, {scale.split_per_worker} requests per worker, seeds: {scale.seeds}. "
            "Ratios to one scheduler.\n",
            *_parts(split),
            "",
        ]
    )


def _sizes(grown: Sequence[Size]) -> list[str]:
    least = {row.policy: row for row in reversed(grown)}
    lines = [_SIZES, "|---:|---|" + "---:|" * 7]
    for row in grown:
        median, tail = least[row.policy].decision_p50_us, least[row.policy].decision_p99_us
        lines.append(
            f"| {row.workers:,} | {row.policy} | {row.decision_p50_us:.0f} | {row.decision_p99_us:.0f} "
            f"| {row.decision_p50_us / median:.2f} | {row.decision_p99_us / tail:.2f} "
            f"| {row.hit_ratio:.3f} | {row.ttft_mean:.3f} | {row.ttft_p99:.3f} |"
        )
    return lines


def _parts(split: Sequence[Parts]) -> list[str]:
    kinds = {"random": "a random part", "prefix": "a part by prefix"}
    rows = [
        f"| {row.schedulers} | {kinds[row.split]} | {row.hit_ratio:.3f} | {row.ttft_mean:.3f} | {row.ttft_p99:.3f} |"
        for row in split
    ]
    return [_PARTS, "|---:|---|---:|---:|---:|", *rows]
