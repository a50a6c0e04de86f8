"""The table of policies side by side, and its page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime

from bench.live.calibrate import AT_ONCE
from bench.live.ratios import BASE, Rounds, key, ratio
from bench.live.setting import Setting
from bench.micro.figures import Figures
from bench.report import commit, machine, table

HEADERS = (
    "workload", "policy", "TTFT mean, s", f"over {BASE}", "rounds", "TTFT p99, s", f"over {BASE}", "latency mean, s",
    f"over {BASE}", "cached", "busiest / mean",
)  # fmt: skip

PAGE = """# Policies on `{backend}`

`{command}` on {date}, commit {commit}, on {cpu}, {cores} cores, {usable} used; {versions}; load average before and
after: {before}, {after}.

{workers} workers with a `{backend}` engine each, and a KV cache of {kv_tokens:,} tokens in each of them.
Requests come at {utilisation:.0%} of the pace at which round robin, measured right before, serves the same ones with
{at_once} at once on each worker: {rates}. Every policy gets the same requests at the same times, each workload from
cold caches. Rounds: {rounds}; in each of them every policy starts new engines, in another order. Figures are medians
over rounds; "over {base}" is how many times that of `{base}` a figure is, within each round, and "rounds" the 10th and
90th percentile of that for the mean TTFT. Times count from the intended arrival.

{table}
"""


def rows(rounds: Rounds, figures: Figures) -> list[tuple[str, ...]]:
    """Return the rows of the table, by HEADERS."""
    return [_row(figures, workload, policy) for workload, policy in rounds.measures]


def _row(figures: Figures, workload: str, policy: str) -> tuple[str, ...]:
    def value(name: str, form: str) -> str:
        return form.format(figures.metrics[key(workload, policy, name)])

    def over(name: str) -> str:
        found = figures.metrics.get(ratio(workload, policy, name))
        return "" if found is None else f"{found:.2f}"

    low_high = figures.spread.get(ratio(workload, policy, "ttft_mean"))
    return (
        workload,
        policy,
        value("ttft_mean", "{:.3f}"),
        over("ttft_mean"),
        "-".join(f"{end:.2f}" for end in low_high or ()),
        value("ttft_p99", "{:.3f}"),
        over("ttft_p99"),
        value("latency_mean", "{:.3f}"),
        over("latency_mean"),
        value("hit_ratio", "{:.0%}"),
        value("imbalance", "{:.2f}"),
    )


def page(
    found: Sequence[Sequence[str]], rates: dict[str, float], setting: Setting, arguments: argparse.Namespace
) -> str:
    """Return the page of the documentation, with the rows that were found."""
    host = machine()
    engines = {
        name: version for name, version in host["packages"].items() if name.startswith((setting.backend, "torch"))
    }
    return PAGE.format(
        backend=setting.backend,
        command=arguments.command,
        date=datetime.now(UTC).date(),
        commit=commit() or "unknown",
        cpu=host["cpu"],
        cores=host["cores"],
        usable=host["usable_cores"],
        versions=", ".join(f"{name} {version}" for name, version in engines.items()),
        before=f"{host['load_average']['before'][0]:.1f}",
        after=f"{host['load_average']['after'][0]:.1f}",
        workers=setting.workers,
        kv_tokens=setting.kv_tokens,
        utilisation=arguments.utilisation,
        at_once=AT_ONCE,
        rates=", ".join(f"{workload} {rate:.2f} a second" for workload, rate in rates.items()),
        rounds=arguments.rounds,
        base=BASE,
        table=table(HEADERS, found, words=2),
    )
