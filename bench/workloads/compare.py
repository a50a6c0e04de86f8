"""Generators against trace files of the same workloads: `python -m bench.workloads.compare [--traces DIR] [--quick]`.

A generator is as good as a trace for comparing policies if both put them in the same order. Each workload is served in
simulation by the same policies twice, from the generator and from the file, at the same rate and with as many requests.
Policies are ordered by mean time to first token. Kendall's tau is (agreeing - disagreeing) / all pairs of policies: 1
is the same order, -1 the reverse. Pairs whose means lie within 5 % of each other, in the generated workload or in the
file, are ties, and not counted. Regret is how much worse than the best policy on the file the one is that wins on the
generator: what choosing by the generator would cost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from bench.progress import progress
from bench.report import command_line, commit, folder, machine, page, save
from bench.workloads import WORKLOADS
from preble.simulate import Request, simulate
from preble.simulate.traces import load

POLICIES = ("e2", "e2-paper", "sglang-cache-aware", "dynamo-kv", "session-hash", "round-robin")
TIE = 0.05


class Pair(msgspec.Struct, frozen=True):
    """A workload in both forms, as it is served: requests a second, workers, and how many requests at most.

    `recorded` is the rate of the file at speed 1.
    """

    name: str
    file: str
    format: str
    rate: float
    workers: int
    requests: int
    recorded: float = 1.0

    def forms(self, traces: Path, requests: int) -> tuple[list[Request], list[Request]]:
        """Return the first `requests` generated ones, and those of the file."""
        traced = load(traces / self.file, self.format, speed=self.rate / self.recorded)[:requests]
        return WORKLOADS[self.name](rate=self.rate, **self._size())[: len(traced)], traced

    def _size(self) -> dict[str, int]:
        """Of closed loops, sessions are made in proportion; of the others the default has the file's size."""
        return {"requests": self.requests} if self.format == "agents" else {}


PAIRS = (
    Pair("toolbench", "preble5_ref4/toolbench_zipf1.1.seg.jsonl.gz", "segments", 40.0, 4, 2_000),
    Pair("videoqa", "preble5_ref4/videoqa.seg.jsonl.gz", "segments", 5.0, 4, 700),
    Pair("loogle", "preble5_ref4/loogle.seg.jsonl.gz", "segments", 1.2, 4, 400),
    Pair("programming", "preble5_ref4/programming.seg.jsonl.gz", "segments", 6.0, 4, 700),
    Pair("chat", "mooncake/conversation_0-40min.jsonl.gz", "blocks", 4.0, 8, 600, recorded=3.27),
    Pair("coding", "agent_coding/claude_code_128k.jsonl.gz", "agents", 1.4, 8, 400, recorded=40.7 / 60),
)
QUICK = 60
"""Requests of each workload."""


class Agreement(msgspec.Struct, frozen=True):
    """Seconds to the first token by policy, in both forms, and how far the orders agree.

    `regret` is by how much of the best the policy that wins on the generator is worse on the file.
    """

    workload: str
    requests: int
    generated: dict[str, float]
    traced: dict[str, float]
    tau: float
    pairs: int
    regret: float


def compare(pair: Pair, traces: Path, most: int | None, advance: Callable[[], object]) -> Agreement:
    """Serve both forms under all policies."""
    forms = pair.forms(traces, min(pair.requests, most or pair.requests))
    generated, traced = (
        {policy: simulate(form, policy=policy, workers=pair.workers).summary().ttft_mean for policy in POLICIES}
        for form in forms
    )
    advance()
    tau, pairs = kendall(generated, traced)
    winner = min(generated, key=generated.__getitem__)
    regret = traced[winner] / min(traced.values()) - 1
    return Agreement(pair.name, len(forms[1]), generated, traced, tau, pairs, regret)


def kendall(first: Mapping[str, float], second: Mapping[str, float]) -> tuple[float, int]:
    """Return tau over the pairs of names that are no tie in either, and how many these are; 1.0 if there are none."""
    signs = [
        _order(first[one], first[other]) * _order(second[one], second[other]) for one, other in combinations(first, 2)
    ]
    pairs = sum(map(abs, signs))
    return (sum(signs) / pairs if pairs else 1.0), pairs


def _order(one: float, other: float) -> int:
    """-1 if `one` is less, 1 if it is more, 0 for a tie."""
    if abs(one - other) <= TIE * max(one, other):
        return 0
    return -1 if one < other else 1


def document(rows: Sequence[Agreement], machine: Mapping[str, Any], commit: str | None) -> str:
    """Return a page with the orders of both forms side by side."""
    said = (__doc__ or "").partition("\n\n")[2].strip()
    lines = [
        "# Generators and traces\n",
        f"Made by `python -m bench.workloads.compare` on {datetime.now(UTC).date().isoformat()}, commit {commit}: "
        f"{machine['cpu']}, Python {machine['python']}. All of it is simulated, and the same on any machine.\n",
        f"{said}\n",
        "| workload | requests | tau | pairs | regret | order by mean TTFT, s |",
        "|---|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {row.workload} | {row.requests:,} | {row.tau:.2f} | {row.pairs} | {row.regret:.1%} "
        f"| generated: {_ordered(row.generated)}<br>file: {_ordered(row.traced)} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _ordered(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds[name]:.3g}" for name in sorted(seconds, key=seconds.__getitem__))


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and report."""
    parser = command_line(__doc__)
    parser.add_argument("--traces", type=folder, default="../shared/workloads", metavar="DIR", help="(%(default)s)")
    names = [pair.name for pair in PAIRS]
    parser.add_argument("--workload", action="append", choices=names, help="repeatable (all)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} requests of each workload")
    options = parser.parse_args(argv)
    chosen = [pair for pair in PAIRS if pair.name in (options.workload or names)]
    if missing := [pair.file for pair in chosen if not (options.traces / pair.file).is_file()]:
        parser.error(f"{options.traces}: without {', '.join(missing)}")
    with progress("workloads", len(chosen)) as advance:
        rows = [compare(pair, options.traces, QUICK if options.quick else None, advance) for pair in chosen]
    text = document(rows, machine(), commit())
    sys.stdout.write(text + "\n")
    page(options.markdown, text)
    metrics = {f"{row.workload}_{name}": getattr(row, name) for row in rows for name in ("tau", "regret")}
    save(options.json, "generators", metrics, rows=msgspec.to_builtins(rows), quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
