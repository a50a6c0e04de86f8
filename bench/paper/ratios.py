"""What results are compared by: round robin's time over another's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

from bench.paper.cells import ROUND_ROBIN, Cell, Contender
from bench.paper.run import Results

BEHIND = 0.02
"""Share of requests left at the last arrival above which a cell counts as beyond saturation."""
FIELDS = {"average": "latency_mean", "p99": "latency_p99", "ttft": "ttft_mean", "tpot": "tpot_mean"}


def ratio(results: Results, cell: Cell, contender: Contender | str, what: str) -> float:
    """Return how many times round robin's time is a contender's: `what` is a key of FIELDS."""
    field = FIELDS[what]
    return float(getattr(results.of(cell), field) / getattr(results.of(cell, contender), field))


def saturated(results: Results, cell: Cell) -> bool:
    """Return whether work piles up under round robin."""
    return results.of(cell).behind > BEHIND


def kept_up(results: Results) -> list[Cell]:
    """Return the cells of the sweep where it does not."""
    return [cell for cell in results.sweep if not saturated(results, cell)]


def best(results: Results, cell: Cell) -> float:
    """Return the highest average ratio there could be: over the requests alone, with all of their prefixes cached."""
    return results.of(cell).latency_mean / results.alone[cell.panel]


def span(results: Results, cells: Sequence[Cell], contender: str, what: str) -> tuple[float, float]:
    """Return the lowest and the highest ratio among cells; 0 and 0 of none."""
    ratios = [ratio(results, cell, contender, what) for cell in cells]
    return (min(ratios), max(ratios)) if ratios else (0.0, 0.0)


def metrics(results: Results) -> dict[str, float]:
    """Return every ratio under a name, the headlines first."""
    found: dict[str, float] = {}
    for what in ("average", "p99"):
        low, high = span(results, results.sweep, "e2-paper", what)
        found |= {f"{what}_ratio_max": high, f"{what}_ratio_min": low}
        found[f"{what}_ratio_max_below_saturation"] = span(results, kept_up(results), "e2-paper", what)[1]
        found[f"e2_{what}_ratio_max"] = span(results, results.sweep, "e2", what)[1]
    parts = (results.sweep, results.azure, results.ablation, results.beyond, results.baselines)
    for cell in chain.from_iterable(parts):
        for contender in results.outcomes[cell.name]:
            if contender != ROUND_ROBIN.name:
                for what in FIELDS:
                    name = f"{slug(cell.name)}_{slug(contender)}_{what}_ratio"
                    found[name] = ratio(results, cell, contender, what)
    return found


def slug(name: str) -> str:
    """Return a name as metrics have it."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")
