"""What came out of a simulation: a row per request, and their summary."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from preble.core.arrays import Floats

Ints = NDArray[np.int64]


class Summary(msgspec.Struct, frozen=True):
    """A simulation in numbers. Times are in seconds, over the requests that finished.

    `hit_ratio` is the cached prompt tokens divided by all prompt tokens. `imbalance` is the number of tokens that the
    busiest worker computed (uncached prompt tokens and outputs) divided by the mean of all workers. `rate` is the
    requests finished per second, from the first arrival to the last end. `tpot_mean` is the mean time per token after
    the first, over requests of two tokens and more.
    `preemptions`, `recomputed` and `copied` are those of all workers over the whole run.
    """

    requests: int
    failed: int
    moved: int
    retries: int
    ttft_mean: float
    ttft_p50: float
    ttft_p99: float
    latency_mean: float
    latency_p99: float
    tpot_mean: float
    hit_ratio: float
    imbalance: float
    utilisation: float
    rate: float
    output_rate: float
    preemptions: int
    recomputed: int
    copied: int


class Result(msgspec.Struct, frozen=True):
    """Arrays with an entry per request, in the order of the workload; the last four have one per worker.

    `ttft` and `latency` are seconds since `arrival`, NaN for what was not reached (a request refused or cancelled).
    `worker` is the last one's index, -1 for none; `cached` what the engine of its first token found; `retries` how
    often it was placed again because its worker was gone; `predicted_*` what the scheduler expected when it placed the
    request last. Of a worker, `busy` is seconds of computing, `preemptions` how often a running request had to give up
    its KV blocks for others, `recomputed` tokens computed again because of that, and `copied` prefixes computed in
    the background.
    """

    arrival: Floats
    ttft: Floats
    latency: Floats
    worker: Ints
    prompt_tokens: Ints
    cached: Ints
    output_tokens: Ints
    moved: NDArray[np.bool_]
    retries: Ints
    predicted_cached: Ints
    predicted_ttft: Floats
    busy: Floats
    preemptions: Ints
    recomputed: Ints
    copied: Ints

    @classmethod
    def empty(cls, requests: int, workers: int) -> Result:
        """Return one to be filled in."""
        return cls(
            arrival=np.full(requests, np.nan),
            ttft=np.full(requests, np.nan),
            latency=np.full(requests, np.nan),
            worker=np.full(requests, -1),
            prompt_tokens=np.zeros(requests, dtype=np.int64),
            cached=np.zeros(requests, dtype=np.int64),
            output_tokens=np.zeros(requests, dtype=np.int64),
            moved=np.zeros(requests, dtype=np.bool_),
            retries=np.zeros(requests, dtype=np.int64),
            predicted_cached=np.zeros(requests, dtype=np.int64),
            predicted_ttft=np.full(requests, np.nan),
            busy=np.zeros(workers),
            preemptions=np.zeros(workers, dtype=np.int64),
            recomputed=np.zeros(workers, dtype=np.int64),
            copied=np.zeros(workers, dtype=np.int64),
        )

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Which requests got all their tokens."""
        return ~np.isnan(self.latency)

    @property
    def span(self) -> float:
        """Seconds from the first arrival to the last end."""
        return float(np.nanmax(self.arrival + self.latency) - np.nanmin(self.arrival)) if self.finished.any() else 0.0

    @property
    def computed(self) -> Ints:
        """Tokens that each worker computed: prompt tokens not cached, and outputs. What was recomputed counts once."""
        tokens = self.prompt_tokens - self.cached + self.output_tokens
        placed = self.worker >= 0
        return np.bincount(self.worker[placed], tokens[placed], minlength=len(self.busy)).astype(np.int64)

    def summary(self, *, skip: float = 0.0) -> Summary:
        """Sum up, leaving out the requests that arrived in the first `skip` of the time: the caches were cold."""
        first, last = (self.arrival.min(), self.arrival.max()) if len(self.arrival) else (0.0, 0.0)
        begin = first + skip * (last - first)
        late = self.arrival >= begin
        done = self.finished & late
        ttft, latency, output = self.ttft[done], self.latency[done], self.output_tokens[done]
        several = output > 1
        end = float((self.arrival + self.latency)[done].max()) if done.any() else begin
        span = max(end - begin, 1e-9)
        computed = self.computed
        return Summary(
            requests=int(late.sum()),
            failed=int((late & ~done).sum()),
            moved=int(self.moved[late].sum()),
            retries=int(self.retries[late].sum()),
            ttft_mean=_mean(ttft),
            ttft_p50=_percentile(ttft, 50),
            ttft_p99=_percentile(ttft, 99),
            latency_mean=_mean(latency),
            latency_p99=_percentile(latency, 99),
            tpot_mean=_mean((latency - ttft)[several] / (output[several] - 1)),
            hit_ratio=float(self.cached[done].sum() / max(1, self.prompt_tokens[done].sum())),
            imbalance=float(computed.max() / max(1e-9, computed.mean())),
            utilisation=float(self.busy.mean() / max(self.span, 1e-9)),
            rate=float(done.sum() / span),
            output_rate=float(output.sum() / span),
            preemptions=int(self.preemptions.sum()),
            recomputed=int(self.recomputed.sum()),
            copied=int(self.copied.sum()),
        )


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0


def _percentile(values: Floats, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0
