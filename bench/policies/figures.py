"""The board's figures: PNGs that read the same in black and white."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench.policies.board import OURS, PEERS, Board
from bench.policies.compare import WORSE, against_each, at, best_peer, better, loads_of, places, sustained_ratios
from preble.core.policies import POLICIES

mpl.use("Agg")

_MARKERS = ("o", "s", "^", "D")
_SHADES = ("white", "0.6", "black", "0.85")


def draw(board: Board, folder: Path, stem: str) -> list[str]:
    """Write the figures into a folder and return their names."""
    names = []
    for name, plot in (("best", _best), ("each", _each), ("sustained", _sustained)):
        figure = Figure(figsize=(8, 6), layout="constrained")
        axes = figure.subplots()
        plot(axes, board)
        folder.mkdir(parents=True, exist_ok=True)
        names.append(f"{stem}-{name}.png")
        figure.savefig(folder / names[-1], dpi=120)
    return names


def _best(axes: Axes, board: Board) -> None:
    """A row per workload, a mark per load."""
    workloads = sorted({workload for workload, _ in places(board)}, reverse=True)
    for load, marker, shade in zip(loads_of(board), _MARKERS, _SHADES, strict=False):
        found = {workload: _against_best(board, workload, load) for workload in workloads}
        shown = {workload: ratio for workload, ratio in found.items() if ratio}
        rows = [workloads.index(workload) for workload in shown]
        axes.scatter(list(shown.values()), rows, marker=marker, facecolor=shade, edgecolor="black", label=f"{load:.0%}")
    axes.axvline(1 / WORSE, color="black", linestyle=":", linewidth=1)
    _finish(axes, workloads, f"mean TTFT of the best peer rule / {OURS}; right of 1 {OURS} is better")
    axes.legend(title="load", loc="upper left", bbox_to_anchor=(1, 1))


def _against_best(board: Board, workload: str, load: float) -> float | None:
    cells = at(board, workload, load)
    peer = best_peer(cells, "ttft_mean")
    if peer is None or OURS not in cells:
        return None
    return better("ttft_mean", cells[OURS].ttft_mean, peer.ttft_mean)


def _each(axes: Axes, board: Board) -> None:
    """A row per peer rule, a mark per load."""
    peers = list(reversed(PEERS))
    for load, marker, shade in zip(loads_of(board), _MARKERS, _SHADES, strict=False):
        shown = {name: ratio for name, ratio in against_each(board, "ttft_mean", load).items() if ratio}
        rows = [peers.index(name) for name in shown]
        axes.scatter(list(shown.values()), rows, marker=marker, facecolor=shade, edgecolor="black", label=f"{load:.0%}")
    _finish(axes, peers, f"mean TTFT of the peer / {OURS}, geometric mean over workloads")
    axes.legend(title="load", loc="upper left", bbox_to_anchor=(1, 1))


def _sustained(axes: Axes, board: Board) -> None:
    """A row per policy, a mark per workload that one of the two finds too fast."""
    ratios = sustained_ratios(board)
    policies = sorted(ratios, key=list(POLICIES).index, reverse=True)
    for row, name in enumerate(policies):
        shares = [1 / ratio for ratio in ratios[name]]
        axes.scatter(shares, [row] * len(shares), marker="o", facecolor="none", edgecolor="black", s=24)
    marks = f"a mark per workload; left of 1 {OURS} is better, near 0.03 the policy sustains none"
    _finish(axes, policies, f"sustained rate / that of {OURS}\n{marks}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))


def _finish(axes: Axes, rows: list[str], label: str) -> None:
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.grid(axis="both", alpha=0.3)
