"""The figures in the paper's layout: latency over rate, a column for each workload; bars; the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench.paper.cells import ABLATION, CONTENDERS, Cell, Contender
from bench.paper.ratios import FIELDS
from bench.paper.run import Results
from bench.paper.tables import AZURE_NAMES, clusters

mpl.use("Agg")

STYLES = (("s", ":"), ("o", "-"), ("^", "--"), ("D", "-."), ("v", "-"))
"""Marker and line of each contender: figures read the same in black and white."""
WIDE = 8
"""High over low of an axis on which labels of all digits would overlap."""
ROWS = {"average": "average latency, s", "p99": "p99 latency, s"}


def draw(results: Results, folder: Path) -> None:
    """Write a PNG for each cluster, for the Azure mix and for the ablation."""
    folder.mkdir(parents=True, exist_ok=True)
    for cluster in clusters(results):
        found = [cell for cell in results.sweep if cell.cluster == cluster]
        _save(_sweep(results, found, cluster.title), folder / f"paper-{cluster.name}.png")
    _save(_azure(results), folder / "paper-azure.png")
    _save(_ablation(results), folder / "paper-ablation.png")


def _sweep(results: Results, cells: Sequence[Cell], title: str) -> Figure:
    labels = list(dict.fromkeys(cell.label for cell in cells))
    figure = Figure(figsize=(2.6 * len(labels), 5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(2, len(labels), squeeze=False, sharex="col")
    for column, label in enumerate(labels):
        mine = [cell for cell in cells if cell.label == label]
        grid[0][column].set_title(label)
        for row, what in enumerate(ROWS):
            _lines(grid[row][column], results, mine, CONTENDERS, what)
        grid[1][column].set_xlabel("requests/s")
    for row, name in enumerate(ROWS.values()):
        grid[row][0].set_ylabel(name)
    grid[0][0].legend(fontsize="small")
    return figure


def _ablation(results: Results) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle("ToolBench, Zipf 1.1, 4 A6000")
    for axes, (what, name) in zip(figure.subplots(1, 2), ROWS.items(), strict=True):
        _lines(axes, results, results.ablation, ABLATION, what)
        axes.set(xlabel="requests/s", ylabel=name)
        axes.legend(fontsize="small")
    return figure


def _azure(results: Results) -> Figure:
    figure = Figure(figsize=(2.6 * len(FIELDS), 2.6 * len(results.azure)), layout="constrained")
    grid = figure.subplots(len(results.azure), len(FIELDS), squeeze=False)
    for row, cell in zip(grid, results.azure, strict=True):
        for axes, (what, name) in zip(row, AZURE_NAMES.items(), strict=True):
            times = [getattr(results.of(cell, each), FIELDS[what]) for each in CONTENDERS]
            axes.bar([each.name for each in CONTENDERS], times, color=("0.35", "0.7", "white"), edgecolor="black")
            axes.set_title(f"{cell.label}: {name}, s", fontsize="small")
            axes.tick_params(labelsize="small")
    return figure


def _lines(axes: Axes, results: Results, cells: Sequence[Cell], contenders: Sequence[Contender], what: str) -> None:
    rates = [cell.rate for cell in cells]
    for contender, (marker, line) in zip(contenders, STYLES, strict=False):
        times = [getattr(results.of(cell, contender), FIELDS[what]) for cell in cells]
        axes.plot(rates, times, marker=marker, linestyle=line, linewidth=1.4, markersize=4, label=contender.name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    low, high = axes.get_ylim()
    if high > WIDE * low:
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.grid(alpha=0.3, which="both")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)
