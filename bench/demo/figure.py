"""The demo's figure: how long users waited, and what the workers had to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.live import Record, summary

mpl.use("Agg")

_LINES = ("--", "-")


def draw(records: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Write a PNG that reads the same in black and white."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    waits, work = figure.subplots(1, 2)
    _waits(waits, records)
    _work(work, records)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _waits(axes: Axes, records: Mapping[str, Sequence[Record]]) -> None:
    for (policy, of), line in zip(records.items(), _LINES, strict=True):
        ttft = [record.ttft for record in of]
        label = f"{policy} (mean {sum(ttft) / len(ttft):.2f} s)"
        axes.ecdf(ttft, color="black", linestyle=line, linewidth=1.8, label=label)
    axes.set(xscale="log", xlabel="time to first token, s", ylabel="share of requests", title="Waiting")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _work(axes: Axes, records: Mapping[str, Sequence[Record]]) -> None:
    shares = {
        f"{policy}\n{worker}": share
        for policy, of in records.items()
        for worker, share in summary(of)["per_worker"].items()
    }
    names = list(shares)
    computed = [share["computed_tokens"] / 1e3 for share in shares.values()]
    cached = [share["cached_tokens"] / 1e3 for share in shares.values()]
    axes.bar(names, computed, width=0.6, color="0.35", edgecolor="black", label="computed")
    axes.bar(names, cached, width=0.6, bottom=computed, color="white", edgecolor="black", hatch="//", label="cached")
    axes.set(ylabel="prompt tokens, thousands", title="Work of each worker")
    axes.margins(y=0.2)
    axes.legend(loc="upper center", ncols=2)
