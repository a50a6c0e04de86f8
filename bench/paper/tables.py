"""The results as Markdown: the paper's claims beside them first, then every cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.paper.cells import ABLATION, BASELINES, ROUND_ROBIN, Cell, Cluster
from bench.paper.ratios import BEHIND, FIELDS, best, kept_up, ratio, saturated, span
from bench.paper.result import Document
from bench.paper.run import Outcome, Results

E2S = ("e2-paper", "e2")
AZURE_CLAIMS = {"average": 6.02, "p99": 4.61, "ttft": 5.60, "tpot": 2.42}
AZURE_NAMES = {"average": "latency, average", "p99": "latency, p99", "ttft": "TTFT, average", "tpot": "TPOT, average"}

_ABOUT = """\
Made by `python -m bench.paper`; what it runs, and why ratios are what they are, is in [../paper.md](../paper.md).
All figures are of simulations on the cost constants that the paper's authors published. Times are in seconds from
arrival to last token; a ratio is round robin's time over the other's. Best possible is the ratio to requests each alone
with all of their prefixes cached."""
_HEAD = ["workload", "cluster", "requests/s", "requests", "round robin: average", "p99", "hit", "e2-paper: average"]
_HEAD += ["p99", "hit", "ratio", "p99 ratio", "e2: ratio", "p99 ratio", "best possible"]
_SATURATED = f"""\
`*`: over {BEHIND:.0%} of the requests had not ended when the last one arrived under round robin: work piles up, and the
ratio depends on how long the run is. Arrivals of ALFWorld wait for answers, so there nothing can pile up."""


def markdown(document: Document) -> str:
    """Return the whole page."""
    results = document.results
    parts = [
        "# The paper's evaluation, simulated",
        _ABOUT,
        _made(document),
        *_section("Beside the paper", claims(results)),
        *_section("Every cell", cells(results), _SATURATED),
        *_figures(results),
        *_section("Azure mix", azure(results)),
        *_section("One technique after the other", ablation(results)),
        *_section("Above the paper's rates", beyond(results)),
        *_section("Round robin over other engines", baselines(results)),
    ]
    return "\n\n".join(parts) + "\n"


def claims(results: Results) -> list[str]:
    """The paper's ratios and the lowest to highest here."""
    programming = [cell for cell in results.sweep if cell.workload == "programming"]
    rows = [
        ("latency, average", "1.5 - 14.5", results.sweep, "average"),
        ("latency, p99", "2 - 10", results.sweep, "p99"),
        ("latency, average, where round robin keeps up", "", kept_up(results), "average"),
        ("latency, p99, where round robin keeps up", "", kept_up(results), "p99"),
        ("programming: latency, average", "1.56 - 1.8", programming, "average"),
        ("programming: latency, p99", "3 - 4", programming, "p99"),
    ]
    spans = [[name, paper, *(_span(results, cells, e2, what) for e2 in E2S)] for name, paper, cells, what in rows]
    mixed = [
        [
            f"{cell.label}: {AZURE_NAMES[what]}",
            f"{claim:.2f}",
            *(f"{ratio(results, cell, e2, what):.2f}" for e2 in E2S),
        ]
        for cell in results.azure
        for what, claim in AZURE_CLAIMS.items()
    ]
    return table(["round robin's time over", "the paper's", "e2-paper", "e2"], [*spans, *mixed])


def cells(results: Results) -> list[str]:
    """Each cell of the sweep: times, ratios, and what explains them."""
    return table(_HEAD, [_cell(results, cell) for cell in results.sweep])


def beyond(results: Results) -> list[str]:
    """Cells at rates above the paper's."""
    return table(_HEAD, [_cell(results, cell) for cell in results.beyond])


def azure(results: Results) -> list[str]:
    """The mixed run: times."""
    rows = [
        [cell.label, name, *_times(results, cell, name)] for cell in results.azure for name in (ROUND_ROBIN.name, *E2S)
    ]
    return table(["arrivals of tool use", "policy", *AZURE_NAMES.values(), "hit"], rows)


def ablation(results: Results) -> list[str]:
    """Times after each step."""
    head = ["step"] + [f"{cell.rate:g}/s: {what}" for cell in results.ablation for what in ("average", "p99", "hit")]
    rows = []
    for step in ABLATION:
        found = [results.of(cell, step) for cell in results.ablation]
        rows.append([step.name, *(text for one in found for text in _brief(one))])
    return table(head, rows)


def baselines(results: Results) -> list[str]:
    """What the ratios of e2-paper would be if the baseline were another."""
    head = ["workload", "requests/s", "baseline", *(f"{name}, s" for name in AZURE_NAMES.values())]
    head += [f"ratio: {what}" for what in FIELDS]
    others = [each for each in BASELINES if each.name != "e2-paper"]
    return table(head, [_baseline(results, cell, each.name) for cell in results.baselines for each in others])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _section(title: str, lines: Sequence[str], note: str = "") -> list[str]:
    return [f"## {title}", "\n".join(lines), *([note] if note else [])]


def clusters(results: Results) -> list[Cluster]:
    """Return those of the sweep, each once."""
    return list({cell.cluster.name: cell.cluster for cell in results.sweep}.values())


def _figures(results: Results) -> list[str]:
    return [f"![{each.title}](paper-{each.name}.png)" for each in clusters(results)] + [
        "![Azure mix](paper-azure.png)",
        "![Ablation](paper-ablation.png)",
    ]


def _made(document: Document) -> str:
    machine, seeds = document.machine, document.results.seeds
    seed = "seed 0" if seeds == 1 else f"means over seeds 0 to {seeds - 1}"
    return (
        f"Made on {document.date[:10]} at commit {document.commit or 'unknown'}, {seed}, Python {machine['python']}, "
        f"numpy {machine['packages'].get('numpy', 'unknown')}, {machine['cpu']}."
    )


def _span(results: Results, cells: Sequence[Cell], contender: str, what: str) -> str:
    low, high = span(results, cells, contender, what)
    return f"{low:.2f} - {high:.2f}" if cells else "no cell"


def _cell(results: Results, cell: Cell) -> list[str]:
    base, paper = results.of(cell), results.of(cell, "e2-paper")
    mark = " `*`" if saturated(results, cell) else ""
    return [
        cell.label,
        cell.cluster.name,
        f"{cell.rate:g}{mark}",
        f"{base.requests:,.0f}",
        *_brief(base),
        *_brief(paper),
        *(f"{ratio(results, cell, e2, what):.2f}" for e2 in E2S for what in ("average", "p99")),
        f"{best(results, cell):.2f}",
    ]


def _baseline(results: Results, cell: Cell, baseline: str) -> list[str]:
    paper, base = results.of(cell, "e2-paper"), results.of(cell, baseline)
    times = [(getattr(base, field), getattr(paper, field)) for field in FIELDS.values()]
    ratios = [f"{slow / fast:.2f}" for slow, fast in times]
    return [cell.label, f"{cell.rate:g}", baseline, *(f"{slow:.3f}" for slow, _ in times), *ratios]


def _brief(outcome: Outcome) -> list[str]:
    return [f"{outcome.latency_mean:.2f}", f"{outcome.latency_p99:.2f}", f"{outcome.hit_ratio:.0%}"]


def _times(results: Results, cell: Cell, contender: str) -> list[str]:
    found = results.of(cell, contender)
    return [*(f"{getattr(found, FIELDS[what]):.3f}" for what in AZURE_NAMES), f"{found.hit_ratio:.0%}"]
