"""The two policies of the demo, and what they gave side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from bench.live import Record

POLICIES = ("round-robin", "e2")
WORKERS = 2
SECONDS_TO_START = 300.0

ROWS = {
    "requests": ("requests", "{:,}"),
    "prompt_tokens": ("prompt tokens", "{:,}"),
    "cached_tokens": ("cached tokens", "{:,}"),
    "ttft_mean": ("TTFT mean, s", "{:.3f}"),
    "ttft_p50": ("TTFT p50, s", "{:.3f}"),
    "ttft_p99": ("TTFT p99, s", "{:.3f}"),
    "latency_mean": ("latency mean, s", "{:.3f}"),
    "latency_p99": ("latency p99, s", "{:.3f}"),
    "output_tokens_per_s": ("output tokens/s", "{:.1f}"),
}
"""Keys of a policy's result: their names and formats in the table."""

Results = dict[str, dict[str, Any]]
"""By policy, what `bench.live.summary` returns."""


def differences(first: Sequence[Record], second: Sequence[Record]) -> list[int]:
    """Return the numbers of the requests whose tokens are not the same."""
    pairs = zip(first, second, strict=True)
    return [number for number, (one, other) in enumerate(pairs) if one.token_ids != other.token_ids]


def flat(policies: Results) -> dict[str, float]:
    """Return all numbers of the policies, and the ratio of their mean TTFTs, as metrics."""
    metrics = {f"{policy.replace('-', '_')}_{key}": result[key] for policy, result in policies.items() for key in ROWS}
    return metrics | {"ttft_mean_ratio": ratio(policies)}


def ratio(policies: Results) -> float:
    """Return how many times longer the mean TTFT is with the first policy than with the second."""
    slow, fast = (float(policies[policy]["ttft_mean"]) for policy in POLICIES)
    return slow / fast


def gain(policies: Results) -> str:
    """Return the ratio as a sentence, whichever policy is ahead."""
    return f"Mean time to first token: {ratio(policies):.2f} times shorter with {POLICIES[1]}."


def table(policies: Results, keys: Iterable[str] = ROWS) -> Table:
    """Return a table with a column for each policy, and a row for each key and each worker."""
    grid = Table("", *policies)
    for column in grid.columns[1:]:
        column.justify = "right"
    for key in keys:
        name, form = ROWS[key]
        grid.add_row(name, *(form.format(result[key]) + _share(key, result) for result in policies.values()))
    for worker in sorted({worker for result in policies.values() for worker in result["per_worker"]}):
        grid.add_row(f"{worker}: requests, computed", *(_load(result, worker) for result in policies.values()))
    return grid


def _share(key: str, result: dict[str, Any]) -> str:
    """Return what to add to a number: for cached tokens their part of all."""
    return f" ({result[key] / result['prompt_tokens']:.0%})" if key == "cached_tokens" else ""


def _load(result: dict[str, Any], worker: str) -> str:
    """Return the requests of a worker and the prompt tokens it computed."""
    mine = result["per_worker"].get(worker, {"requests": 0, "computed_tokens": 0})
    return f"{mine['requests']:,}, {mine['computed_tokens']:,}"
