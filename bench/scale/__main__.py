"""The command: run all, print the tables, and write them down."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from bench.progress import progress
from bench.report import command_line, commit, machine, page, save
from bench.scale import __doc__ as about
from bench.scale.runs import QUICK, RATE, SETS, SKIP, Parts, Scale, Size, parts, sizes
from bench.scale.tables import document


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = command_line(about)
    parser.add_argument("--quick", action="store_true", help="up to 64 workers, under a minute")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there")
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else Scale()
    with progress("scale", scale.requests) as advance:
        grown, split = sizes(scale, advance), parts(scale, advance)
    text = document(grown, split, scale, machine(), commit())
    sys.stdout.write(text + "\n")
    page(options.markdown, text)
    setting = {**msgspec.to_builtins(scale), "rate_per_worker": RATE, "sets_per_worker": SETS, "skip": SKIP}
    rows = {"sizes": msgspec.to_builtins(grown), "split": msgspec.to_builtins(split)}
    save(options.json, "scale", metrics(grown, split), setting=setting, quick=options.quick, **rows)
    return 0


def metrics(grown: Sequence[Size], split: Sequence[Parts]) -> dict[str, float]:
    """Return what the tables say of `e2`, in one name each."""
    ours = [row for row in grown if row.policy == "e2"]
    found = {"decision_p50_us_least_workers": ours[0].decision_p50_us}
    for row in ours[1:]:
        found[f"decision_p50_ratio_{row.workers}_workers"] = row.decision_p50_us / ours[0].decision_p50_us
        found[f"decision_p99_ratio_{row.workers}_workers"] = row.decision_p99_us / ours[0].decision_p99_us
        found[f"ttft_mean_ratio_{row.workers}_workers"] = row.ttft_mean / ours[0].ttft_mean
    for part in split:
        found[f"split_{part.split}_{part.schedulers}_hit_ratio"] = part.hit_ratio
        found[f"split_{part.split}_{part.schedulers}_ttft_mean"] = part.ttft_mean
    return found


if __name__ == "__main__":
    sys.exit(main())
