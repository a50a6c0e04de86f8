"""The board as Markdown: the targets, ours against the best peers, what each policy sustains, and every cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.policies.board import HIGHER, LOADS, METRICS, OURS, PEERS, SEEDS, Board, Bound, Cell, Sustained
from bench.policies.cases import GENERATED, RECORDED
from bench.policies.compare import (
    HALF_LOAD,
    Ratio,
    against_best,
    against_bound,
    against_each,
    at,
    best_peer,
    better,
    by_workload,
    geometric,
    loads_of,
    over_seeds,
    places,
    sustained_each,
    targets,
)
from bench.report import table
from preble.core.policies import POLICIES
from preble.wait_queue.disciplines import DEFAULT

KNOWN = GENERATED | RECORDED
SHOWN_WORST = 12
_LEGEND = (
    "A ratio is how many times better than the best peer rule's value of that metric in that cell, picked after the "
    "fact: above 1 is better, for times as for hit ratios. Seeds are compared one by one; ± is the 95 % confidence "
    "over them, as a part of the ratio. The last row, the targets, figures and the cells below compare means over "
    "seeds."
)
_HEADS = {
    "ttft_mean": "TTFT mean, s",
    "ttft_p50": "p50, s",
    "ttft_p99": "p99, s",
    "latency_mean": "latency mean, s",
    "latency_p99": "p99, s",
    "tpot_mean": "TPOT, ms",
    "imbalance": "imbalance",
    "hit_ratio": "hit ratio",
    "throughput": "done a second",
}


def markdown(board: Board, figures: Sequence[str] = ()) -> str:
    """Return the whole report; `figures` are shown by their paths."""
    parts = [
        f"# Policies\n\n{_origin(board)}",
        "## Targets\n\n" + _targets(board),
        "\n\n".join(f"![{path}]({path})" for path in figures),
        "## Against the best peer of each cell\n\n" + _LEGEND + "\n\n" + _against_best(board),
        "## Against every peer\n\n" + _against_each(board),
        "## Sustained rate\n\n" + _sustained(board),
        "## Cells\n\nIn brackets the ratio to the best peer.\n\n" + "\n\n".join(_places(board)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(board: Board) -> str:
    machine = board.machine
    return (
        f"`{command(board)}`, {board.date}, commit {board.commit}. {machine.get('cpu')}, "
        f"{machine.get('usable_cores')} cores, Python {machine.get('python')}; times are simulated and do not depend "
        f"on the machine. {queues(board)}"
    )


def queues(board: Board) -> str:
    """Say in which order requests wait at whose workers."""
    peers = board.settings["peers_queue"]
    paper = ", by `groups` under `e2-paper`" * any(cell.policy == "e2-paper" for cell in board.cells)
    return f"Queues are ordered by `{DEFAULT}` under `{OURS}`{paper}, and by `{peers}` under the peers."


def command(board: Board) -> str:
    """Return the command that measures such a board: only what differs from the defaults is told."""
    cases, seeds = board.settings["cases"], len(board.settings["seeds"])
    policies = {found.policy for found in board.sustained}
    sizes = {case["requests"] for name, case in cases.items() if case["requests"] != KNOWN[name].requests}
    words = ["python -m bench.policies"] + [f"--seeds {seeds}"] * (seeds != SEEDS)
    words += [f"--requests {size}" for size in sizes]
    words += [f"--peers-queue {board.settings['peers_queue']}"] * (board.settings["peers_queue"] != DEFAULT)
    words += ["--traces DIR"] * (not cases.keys() <= GENERATED.keys())
    words += [f"--workload {name}" for name in cases if not cases.keys() >= GENERATED.keys()]
    words += [f"--policy {name}" for name in POLICIES if name in policies < POLICIES.keys()]
    words += [f"--load {load:g}" for load in loads_of(board) if tuple(loads_of(board)) != LOADS]
    return " ".join(words)


def _targets(board: Board) -> str:
    rows, missed = [], []
    for target in targets(board):
        rows.append([target.name, f"{target.goal:g}", f"{target.value:.3f}", "yes" if target.met else "**no**"])
        if not target.met:
            more = len(target.worst) - SHOWN_WORST
            shown = [f"* {place}" for place in target.worst[:SHOWN_WORST]] + [f"* and {more} more"] * (more > 0)
            missed.append(f"Not met: {target.name}. Worst:\n\n" + "\n".join(shown))
    return "\n\n".join([table([f"`{OURS}` is", "goal", "value", "met"], rows), *missed])


def _against_best(board: Board) -> str:
    metrics = ("ttft_mean", "ttft_p99", "latency_mean")
    heads = [
        "workload",
        "load",
        *(f"{_HEADS[name].partition(',')[0]} ratio" for name in metrics),
        "best peer (mean TTFT)",
    ]
    heads[3] = "TTFT p99 ratio"
    rows = []
    for workload, load in places(board):
        cells = at(board, workload, load)
        best = best_peer(cells, "ttft_mean")
        if OURS in cells and best is not None:
            rows.append([workload, f"{load:.0%}", *(_sure(cells, name) for name in metrics), best.policy])
    means = (f"{geometric(against_best(board, name).values()):.3f}" for name in metrics)
    return table(heads, [*rows, ["geometric mean", "", *means, ""]])


def _sure(cells: dict[str, Cell], metric: str) -> str:
    peer = best_peer(cells, metric)
    return _ratio(over_seeds(metric, cells[OURS], peer)) if peer else ""


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.mean:.3f}" + (f" ± {ratio.spread - 1:.1%}" if ratio.spread else "")


def _against_each(board: Board) -> str:
    loads = loads_of(board)
    each = {load: against_each(board, "ttft_mean", load) for load in loads}
    rates = sustained_each(board)
    rows = [
        [name, *(_number(each[load].get(name)) for load in loads), _number(rates.get(name))]
        for name in PEERS
        if name in rates or any(name in each[load] for load in loads)
    ]
    heads = ["peer", *(f"mean TTFT at {load:.0%}" for load in loads), "sustained rate"]
    about = f"How many times better `{OURS}` is than each rule: geometric means over the workloads."
    return about + "\n\n" + table(heads, rows)


def _sustained(board: Board) -> str:
    policies = list(dict.fromkeys(found.policy for found in board.sustained))
    rows = []
    for workload, found in by_workload(board).items():
        limit = max(row.limit for row in found.values())
        rows.append([workload, f"{limit:.2f}", *(_rate(found.get(policy)) for policy in policies)])
    about = (
        "Requests a second at which the mean TTFT is within its limit, by bisection to 4 % on the first seed. 0: not "
        "even at the lowest rate tried; -: at any, the sessions are too few to fill the cluster."
    )
    return about + "\n\n" + table(["workload", "limit, s", *policies], rows)


def _rate(found: Sustained | None) -> str:
    return "" if found is None else "-" if found.unlimited else f"{found.rate:.3g}"


def _places(board: Board) -> Iterator[str]:
    bounds = {(bound.workload, bound.load): bound for bound in board.bounds}
    for workload, load in places(board):
        cells = at(board, workload, load)
        any_cell = next(iter(cells.values()))
        title = f"### {workload} at {load:.0%}: {any_cell.rate:.3g} requests a second"
        rows = [[name, *(_value(cell, cells, metric) for metric in METRICS)] for name, cell in cells.items()]
        bound = bounds.get((workload, load))
        if bound is not None:
            rows.append(["*bound*", *(_bound(bound, metric) for metric in METRICS)])
        grid = table(["policy", *map(_HEADS.__getitem__, METRICS)], rows)
        yield "\n\n".join([title, grid, *_notes(board, workload, load)])


def _notes(board: Board, workload: str, load: float) -> Iterator[str]:
    multiples = against_bound(board)
    if load == HALF_LOAD and workload in multiples:
        yield f"Mean TTFT of `{OURS}`: {multiples[workload]:.2f} times the bound."
    if any(found.unlimited for found in by_workload(board).get(workload, {}).values()):
        yield "Its sessions are too few to fill the cluster: the load is a share of the highest rate that was tried."


def _value(cell: Cell, cells: dict[str, Cell], metric: str) -> str:
    value, peer = getattr(cell, metric), best_peer(cells, metric)
    ratio = peer and better(metric, value, getattr(peer, metric))
    return _shown(metric, value) + (f" ({ratio:.2f})" if ratio else "")


def _bound(bound: Bound, metric: str) -> str:
    value = getattr(bound, metric, None)
    return "" if value is None else _shown(metric, value)


def _shown(metric: str, value: float) -> str:
    return f"{value * 1e3:.1f}" if metric == "tpot_mean" else f"{value:.3f}" if metric in HIGHER else f"{value:.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
