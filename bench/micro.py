"""The decision path: `python -m bench.micro --json FILE`.

Prompts: 5 % common to all, a group's prefix up to 85 %, 15 % unique; 40 requests per group on average, popularity Zipf
1.1. Queries are new prompts of the same kind, packed beforehand, each used once, more of them than the last-level cache
holds; the tree already has `--requests` requests. Single calls are timed with the nanosecond clock, collector on.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator

import numpy as np

from bench.report import save
from preble.core.scheduler import Scheduler

COMMON, SHARED = 0.05, 0.85
REQUESTS_PER_GROUP = 40
VOCABULARY = 32_000


class Prompts:
    """Endless prompts of `length` tokens for a run of `requests` requests, as packed bytes."""

    def __init__(self, length: int, requests: int, seed: int) -> None:
        self.length = length
        self.rng = np.random.default_rng(seed)
        self.groups = max(1, requests // REQUESTS_PER_GROUP)
        weights = 1.0 / np.arange(1, self.groups + 1) ** 1.1
        self.share = weights / weights.sum()
        self.common = self._tokens(int(COMMON * length))
        self.prefixes: dict[int, bytes] = {}

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield from (self._prompt(int(group)) for group in self.rng.choice(self.groups, 1000, p=self.share))

    def _prompt(self, group: int) -> bytes:
        shared = int(SHARED * self.length) - int(COMMON * self.length)
        prefix = self.prefixes.get(group) or self.prefixes.setdefault(group, self._tokens(shared))
        unique = self.length - shared - int(COMMON * self.length)
        return self.common + prefix + self._tokens(unique)

    def _tokens(self, count: int) -> bytes:
        return self.rng.integers(0, VOCABULARY, count, dtype="<i4").tobytes()


def full_scheduler(prompts: Iterator[bytes], length: int, workers: int, requests: int) -> Scheduler:
    """A scheduler that has seen `requests` requests, caches large enough that nothing was evicted."""
    scheduler = Scheduler("e2")
    for worker in range(workers):
        scheduler.add_worker(f"w{worker}", kv_tokens=requests * length, block_size=16, now=0.0)
    for number in range(requests):
        scheduler.submit(number, next(prompts), now=number * 1e-3)
        scheduler.finish(number, output=b"\1\0\0\0", now=number * 1e-3)
    return scheduler


def time_calls(scheduler: Scheduler, queries: list[bytes], start: float) -> dict[str, np.ndarray]:
    """Nanoseconds of each submit and finish, with 64 requests in flight as a server would have."""
    submit, finish, flying = [], [], []
    clock = time.perf_counter_ns
    for number, tokens in enumerate(queries):
        now = start + number * 1e-3
        began = clock()
        scheduler.submit(("q", number), tokens, now=now)
        submit.append(clock() - began)
        scheduler.started(("q", number), cached_tokens=scheduler._requests["q", number].cached, now=now)
        scheduler.first_token(("q", number), now=now)
        flying.append(("q", number))
        if len(flying) > 64:
            began = clock()
            scheduler.finish(flying.pop(0), output=b"\1\0\0\0\2\0\0\0", now=now)
            finish.append(clock() - began)
    return {"submit": np.array(submit), "finish": np.array(finish)}


def measure(length: int, workers: int, requests: int, queries: int) -> dict[str, float]:
    """Run one configuration and return its figures in microseconds."""
    prompts = iter(Prompts(length, requests, seed=1))
    scheduler = full_scheduler(prompts, length, workers, requests)
    for _ in range(500):
        scheduler.tree.match(next(prompts))
    times = time_calls(scheduler, [next(prompts) for _ in range(queries)], requests * 1e-3)
    both = np.percentile(times["submit"], 50) + np.percentile(times["finish"], 50)
    gc.collect()
    began = time.perf_counter()
    gc.collect()
    return {
        "submit_p50_us": float(np.percentile(times["submit"], 50)) / 1e3,
        "submit_p99_us": float(np.percentile(times["submit"], 99)) / 1e3,
        "finish_p50_us": float(np.percentile(times["finish"], 50)) / 1e3,
        "finish_p99_us": float(np.percentile(times["finish"], 99)) / 1e3,
        "submit_finish_p50_us": float(both) / 1e3,
        "full_collection_ms": (time.perf_counter() - began) * 1e3,
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--tokens", type=int, default=8192, help="prompt length")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--requests", type=int, default=20_000, help="requests in the tree before timing")
    parser.add_argument("--queries", type=int, default=3000, help="calls timed")
    options = parser.parse_args()
    metrics = measure(options.tokens, options.workers, options.requests, options.queries)
    save(options.json, "micro", metrics)


if __name__ == "__main__":
    main()
