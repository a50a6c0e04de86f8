"""What was measured beside what was predicted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from bench.live.calibrate import Calibration
from bench.live.playing import Record
from preble.errors import ConfigurationError
from preble.simulate import Result


class Measures(msgspec.Struct, frozen=True):
    """Times in seconds, the part of prompt tokens that was cached, and the most loaded worker's work over the mean."""

    ttft_mean: float
    ttft_p50: float
    ttft_p99: float
    latency_mean: float
    latency_p99: float
    hit_ratio: float
    imbalance: float


class Row(msgspec.Struct, frozen=True):
    """One workload under one policy. `rate` is in requests a second, live; `fit` is what it was simulated by.

    `steps` is the time that the live engines' steps took, over what the fitted model says of the same steps: what it is
    off from 1 is the machine's doing, or the model's, and not the simulator's.
    """

    workload: str
    policy: str
    requests: int
    rate: float
    live: Measures
    simulated: Measures
    fit: Calibration
    steps: float

    def ratio(self, name: str) -> float:
        """Live over simulated."""
        predicted = float(getattr(self.simulated, name))
        return float(getattr(self.live, name)) / predicted if predicted else float("nan")


def measured(records: Sequence[Record], workers: int) -> Measures:
    """Sum up a live run."""
    computed: dict[str, int] = {}
    for record in records:
        work = record.prompt_tokens - record.cached_tokens + len(record.token_ids)
        computed[record.worker] = computed.get(record.worker, 0) + work
    return _measures(
        np.array([record.ttft for record in records]),
        np.array([record.latency for record in records]),
        sum(record.cached_tokens for record in records) / sum(record.prompt_tokens for record in records),
        max(computed.values()) * workers / sum(computed.values()),
    )


def simulated(result: Result) -> Measures:
    """Sum up a simulation. Raises ConfigurationError if its engines could not serve all requests."""
    if not result.finished.all():
        refused = int(result.prompt_tokens[~result.finished].max())
        raise ConfigurationError(f"workload: a prompt of {refused} tokens is too long for the engines")
    return _measures(
        result.ttft,
        result.latency,
        float(result.cached.sum() / result.prompt_tokens.sum()),
        float(result.computed.max() / result.computed.mean()),
    )


def _measures(ttft: np.ndarray, latency: np.ndarray, hit_ratio: float, imbalance: float) -> Measures:
    return Measures(
        ttft_mean=float(ttft.mean()),
        ttft_p50=float(np.percentile(ttft, 50)),
        ttft_p99=float(np.percentile(ttft, 99)),
        latency_mean=float(latency.mean()),
        latency_p99=float(np.percentile(latency, 99)),
        hit_ratio=hit_ratio,
        imbalance=imbalance,
    )


def flat(rows: Sequence[Row]) -> dict[str, float]:
    """Return all numbers as metrics."""
    metrics: dict[str, float] = {}
    for row in rows:
        name = f"{row.workload}_{row.policy}".replace("-", "_")
        for kind, measures in (("live", row.live), ("simulated", row.simulated)):
            metrics |= {f"{name}_{kind}_{key}": value for key, value in msgspec.structs.asdict(measures).items()}
        metrics |= {f"{name}_steps_ratio": row.steps, f"{name}_rate": row.rate}
    return metrics


HEADERS = (
    "workload", "policy", "TTFT mean, s: live", "simulated", "ratio", "TTFT p99, s: live", "latency mean, s: live",
    "simulated", "ratio", "cached: live", "simulated", "busiest / mean", "steps, measured / fitted",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table, by HEADERS."""
    live, sim = row.live, row.simulated
    return (
        row.workload,
        row.policy,
        f"{live.ttft_mean:.3f}",
        f"{sim.ttft_mean:.3f}",
        f"{row.ratio('ttft_mean'):.2f}",
        f"{live.ttft_p99:.3f}",
        f"{live.latency_mean:.3f}",
        f"{sim.latency_mean:.3f}",
        f"{row.ratio('latency_mean'):.2f}",
        f"{live.hit_ratio:.0%}",
        f"{sim.hit_ratio:.0%}",
        f"{live.imbalance:.2f}",
        f"{row.steps:.2f}",
    )
