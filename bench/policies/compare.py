"""Ratios, how sure they are, and the targets. A ratio above 1 means better, whatever the metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench.policies.board import HIGHER, LOADS, OURS, PEERS, Board, Cell, Sustained
from bench.policies.cases import FARTHEST

WORSE = 1.03
"""How many times the best peer's value a cell of ours may be."""
SINGLE_LOAD = 0.8
HALF_LOAD = 0.5
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Quantiles of Student's t for 95 % confidence, by degrees of freedom from 1."""


class Ratio(msgspec.Struct, frozen=True):
    """A geometric mean of ratios over seeds, and its 95 % confidence interval: between mean / spread and mean * spread.

    `spread` is None for one seed.
    """

    mean: float
    spread: float | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Something to reach: a `value` compared with a `goal`, and where it is worst, the worst first."""

    name: str
    goal: float
    value: float
    met: bool
    worst: list[str]


def better(metric: str, ours: float, other: float) -> float | None:
    """How many times better ours is than another value; None where one of them is 0 and the other is not."""
    above, below = (ours, other) if metric in HIGHER else (other, ours)
    if above == below:
        return 1.0
    return above / below if above > 0 and below > 0 else None


def over_seeds(metric: str, ours: Cell, other: Cell) -> Ratio | None:
    """The same with confidence: seeds are compared one by one. None where a seed has no ratio."""
    pairs = zip(ours.by_seed[metric], other.by_seed[metric], strict=True)
    return confident([better(metric, *pair) for pair in pairs])


def confident(ratios: Iterable[float | None]) -> Ratio | None:
    """Return the geometric mean of a sample of ratios, and how sure it is."""
    sample = list(ratios)
    logs = [math.log(ratio) for ratio in sample if ratio]
    if not logs or len(logs) < len(sample):
        return None
    mean = sum(logs) / len(logs)
    freedom = len(logs) - 1
    if not freedom:
        return Ratio(math.exp(mean))
    error = math.sqrt(sum((value - mean) ** 2 for value in logs) / freedom / len(logs))
    student = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96
    return Ratio(math.exp(mean), math.exp(student * error))


def geometric(values: Iterable[float]) -> float:
    """Return the geometric mean; 0 of nothing, or if one of them is 0."""
    known = list(values)
    return math.exp(sum(map(math.log, known)) / len(known)) if known and all(known) else 0.0


def places(board: Board) -> list[tuple[str, float]]:
    """Return the workloads and loads that the board has cells of."""
    return sorted({(cell.workload, cell.load) for cell in board.cells})


def at(board: Board, workload: str, load: float) -> dict[str, Cell]:
    """Return the cells of one place by policy."""
    return {cell.policy: cell for cell in board.cells if (cell.workload, cell.load) == (workload, load)}


def best_peer(cells: dict[str, Cell], metric: str) -> Cell | None:
    """Return the cell of the peer rule that was best by this metric, chosen after the fact; None without peers."""
    peers = [cell for name, cell in cells.items() if name in PEERS]
    sign = -1.0 if metric in HIGHER else 1.0
    return min(peers, key=lambda cell: sign * getattr(cell, metric), default=None)


def against_best(board: Board, metric: str, load: float | None = None) -> dict[str, float]:
    """Ours against the best peer of each place, by place: of one load, or of all."""
    found = {}
    for workload, level in places(board):
        cells = at(board, workload, level)
        peer = best_peer(cells, metric)
        if OURS in cells and peer is not None and load in (None, level):
            ratio = better(metric, getattr(cells[OURS], metric), getattr(peer, metric))
            found[f"{workload} at {level:.0%} ({peer.policy})"] = ratio or 0.0
    return found


def against_each(board: Board, metric: str, load: float) -> dict[str, float]:
    """Ours against every single peer rule: the geometric mean over the workloads at one load."""
    ratios: dict[str, list[float]] = {}
    for workload, _ in (place for place in places(board) if place[1] == load):
        cells = at(board, workload, load)
        for name in PEERS:
            if name in cells and OURS in cells:
                ratio = better(metric, getattr(cells[OURS], metric), getattr(cells[name], metric))
                ratios.setdefault(name, []).append(ratio or 0.0)
    return {name: geometric(values) for name, values in ratios.items()}


def sustained_each(board: Board) -> dict[str, float]:
    """The rate that ours sustains over that of every single peer rule: the geometric mean over the workloads."""
    return {name: geometric(values) for name, values in sustained_ratios(board).items() if name in PEERS}


def sustained_ratios(board: Board) -> dict[str, list[float]]:
    """The rate that ours sustains over that of every other policy, one for each workload.

    What sustains no rate tried counts as if it sustained `FARTHEST` times less than the workload's best. Workloads that
    neither of the two finds too fast are left out.
    """
    ratios: dict[str, list[float]] = {}
    for found in by_workload(board).values():
        least = max(row.rate for row in found.values()) / FARTHEST
        for name in (name for name in found if least and OURS in found and name != OURS):
            ours, other = found[OURS], found[name]
            if not (ours.unlimited and other.unlimited):
                ratios.setdefault(name, []).append(max(ours.rate, least) / max(other.rate, least))
    return ratios


def by_workload(board: Board) -> dict[str, dict[str, Sustained]]:
    """Return what is sustained by workload and policy."""
    rows: dict[str, dict[str, Sustained]] = {}
    for found in board.sustained:
        rows.setdefault(found.workload, {})[found.policy] = found
    return rows


def against_bound(board: Board, load: float = HALF_LOAD) -> dict[str, float]:
    """Our mean TTFT as a multiple of the bound's, by workload."""
    bounds = {bound.workload: bound.ttft_mean for bound in board.bounds if bound.load == load}
    cells = (cell for cell in board.cells if cell.policy == OURS and cell.load == load)
    return {cell.workload: cell.ttft_mean / bounds[cell.workload] for cell in cells if cell.workload in bounds}


def targets(board: Board) -> list[Target]:
    """Return every target that the board has results for."""
    never = {
        f"{metric} {place}": 1 / ratio if ratio else math.inf
        for metric in ("ttft_mean", "ttft_p99", "latency_mean")
        for place, ratio in against_best(board, metric).items()
    }
    return [
        target
        for target in (
            _at_most("times the best peer's mean TTFT, p99 TTFT or mean latency, in every cell", WORSE, never),
            _mean_at_least("better mean TTFT than the best peer of each cell", 1.05, against_best(board, "ttft_mean")),
            _at_least(
                f"better mean TTFT than every single peer, at {SINGLE_LOAD:.0%} load",
                1.25,
                against_each(board, "ttft_mean", SINGLE_LOAD),
            ),
            _at_least("times the sustained rate of every single peer", 1.1, sustained_each(board)),
            _at_most("times the bound's mean TTFT, at half load, on every workload", 1.5, against_bound(board)),
        )
        if target is not None
    ]


def _at_most(name: str, goal: float, values: dict[str, float]) -> Target | None:
    missed = {place: value for place, value in values.items() if value > goal}
    return _target(name, goal, values, max, missed, lambda value: value <= goal)


def _at_least(name: str, goal: float, values: dict[str, float]) -> Target | None:
    missed = {place: value for place, value in values.items() if value < goal}
    return _target(name, goal, values, min, missed, lambda value: value >= goal)


def _mean_at_least(name: str, goal: float, values: dict[str, float]) -> Target | None:
    return _target(name, goal, values, geometric, dict(values), lambda value: value >= goal)


def _target(
    name: str,
    goal: float,
    values: dict[str, float],
    of: Callable[[Iterable[float]], float],
    missed: dict[str, float],
    met: Callable[[float], bool],
) -> Target | None:
    if not values:
        return None
    value = of(values.values())
    far = sorted(missed.items(), key=lambda pair: -abs(math.log(max(pair[1], 1e-9) / goal)))
    return Target(name=name, goal=goal, value=value, met=met(value), worst=[f"{place}: {x:.3g}" for place, x in far])


def loads_of(board: Board) -> Sequence[float]:
    """Return the loads that the board has cells of."""
    return sorted({cell.load for cell in board.cells}) or LOADS
