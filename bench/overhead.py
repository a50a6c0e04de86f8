"""What the library adds to a request: `python -m bench.overhead --json FILE`.

Two workers with the `sim` engine that answers at once, over ipc, prompts of 200 tokens, one token out. Latency with one
request at a time, by `stream`; requests per second with 64 at once, by `generate`; CPU of the caller's process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

import numpy as np

from bench.report import save
from preble import PrebleCluster, SamplingParams

PROMPT_TOKENS = 200
ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0.0)


def prompts(count: int, seed: int) -> list[bytes]:
    """Unrelated packed prompts."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 32_000, PROMPT_TOKENS, dtype="<i4").tobytes() for _ in range(count)]


async def first_chunk(cluster: PrebleCluster, queries: list[bytes]) -> np.ndarray:
    """Seconds from the call to the first chunk, one request at a time."""
    times = []
    for query in queries:
        began = time.perf_counter()
        async for _ in cluster.stream(query, ONE_TOKEN):
            times.append(time.perf_counter() - began)  # noqa: PERF401  a comprehension would hide the clock
    return np.array(times)


async def throughput(cluster: PrebleCluster, queries: list[bytes], concurrency: int) -> tuple[float, float]:
    """Requests per second, and the caller's CPU seconds per request."""
    cpu, began = time.process_time(), time.perf_counter()
    await cluster.generate_many(queries, ONE_TOKEN, concurrency=concurrency)
    return len(queries) / (time.perf_counter() - began), (time.process_time() - cpu) / len(queries)


async def lifetime(workers: int) -> tuple[float, float]:
    """Seconds to start and to close a cluster."""
    began = time.perf_counter()
    cluster = PrebleCluster(backend="sim", workers=workers)
    await cluster.start()
    started = time.perf_counter()
    await cluster.close()
    return started - began, time.perf_counter() - started


async def measure(requests: int, rounds: int) -> dict[str, float]:
    """Return all figures: medians over `rounds` with their spread."""
    chunk, rate, cpu = [], [], []
    async with PrebleCluster(backend="sim", workers=2) as cluster:
        await cluster.generate_many(prompts(500, 0), ONE_TOKEN)
        for seed in range(1, rounds + 1):
            chunk.append(await first_chunk(cluster, prompts(1000, 2 * seed)))
            per_second, seconds = await throughput(cluster, prompts(requests, 2 * seed + 1), 64)
            rate.append(per_second)
            cpu.append(seconds)
    up, down = zip(*[await lifetime(4) for _ in range(3)], strict=True)
    return {
        "first_chunk_p50_us": float(np.median([np.percentile(times, 50) for times in chunk])) * 1e6,
        "first_chunk_p99_us": float(np.median([np.percentile(times, 99) for times in chunk])) * 1e6,
        "requests_per_s_64": float(np.median(rate)),
        "requests_per_s_64_least": min(rate),
        "requests_per_s_64_most": max(rate),
        "caller_cpu_us_per_request_64": float(np.median(cpu)) * 1e6,
        "start_4_workers_s": float(np.median(up)),
        "close_4_workers_s": float(np.median(down)),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--requests", type=int, default=5000, help="requests per throughput round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop", help="the caller's event loop")
    options = parser.parse_args()
    if options.loop == "uvloop":
        import uvloop as loop
    else:
        loop = asyncio
    metrics = loop.run(measure(options.requests, options.rounds))
    save(options.json, "overhead", metrics, loop=options.loop, pid=os.getpid())


if __name__ == "__main__":
    main()
