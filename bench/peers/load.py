"""The three ways in which requests are put, and what comes of each."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bench.peers.answer import Answer, Target
from bench.peers.processes import busy_seconds, cpu_seconds

Measured = dict[str, float]


async def alone(target: Target, requests: Iterable[Any]) -> Measured:
    """One request at a time: microseconds to the first token and to the end."""
    first, end = [], []
    for request in requests:
        began = time.perf_counter()
        answer = await target.ask(request)
        first.append(answer.first - began)
        end.append(answer.end - began)
    return {
        "first_p50_us": float(np.percentile(first, 50)) * 1e6,
        "first_p99_us": float(np.percentile(first, 99)) * 1e6,
        "end_p50_us": float(np.percentile(end, 50)) * 1e6,
    }


async def together(target: Target, requests: Sequence[Any], concurrency: int) -> Measured:
    """So many at once, the next as soon as one ends: requests per second, CPU microseconds per request by process.

    `taken_by_others` is the share of the machine that went to processes that are not part of this.
    """
    queue = iter(requests)

    async def work() -> None:
        for request in queue:
            await target.ask(request)

    before, busy, began = _spent(target), busy_seconds(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds = time.perf_counter() - began
    spent = np.array(_spent(target)) - before
    others = busy_seconds() - busy - float(spent.sum())
    client, router, workers = spent / len(requests) * 1e6
    return {
        "requests_per_s": len(requests) / seconds,
        "client_cpu_us": float(client),
        "router_cpu_us": float(router),
        "client_and_router_cpu_us": float(client + router),
        "workers_cpu_us": float(workers),
        "taken_by_others": max(0.0, others / (seconds * (os.cpu_count() or 1))),
    }


async def replay(
    target: Target, requests: Sequence[Any], arrivals: Sequence[float], done: Callable[[], object]
) -> Measured:
    """Each at its arrival, whatever became of those before: seconds since the intended arrival, share of hits, CPU."""
    begin, before = time.perf_counter(), _spent(target)

    async def one(request: Any, arrival: float) -> tuple[Answer, float]:
        await asyncio.sleep(begin + arrival - time.perf_counter())
        answer = await target.ask(request)
        done()
        return answer, begin + arrival

    answers = await asyncio.gather(*map(one, requests, arrivals))
    client, router, workers = (np.array(_spent(target)) - before) / len(requests) * 1e6
    return summed_up(answers) | {
        "stream_cpu_us": float(client + router),
        "stream_router_cpu_us": float(router),
        "stream_workers_cpu_ms": float(workers) / 1e3,
    }


def summed_up(answers: Sequence[tuple[Answer, float]]) -> Measured:
    """Return times in seconds since each answer's arrival, prompt tokens, and the share of them found in caches."""
    ttft = [answer.first - arrival for answer, arrival in answers]
    latency = [answer.end - arrival for answer, arrival in answers]
    prompt = sum(answer.prompt_tokens for answer, _ in answers)
    return {
        "prompt_tokens": float(prompt),
        "hit_ratio": sum(answer.cached_tokens for answer, _ in answers) / prompt,
        "ttft_mean_s": float(np.mean(ttft)),
        "ttft_p50_s": float(np.percentile(ttft, 50)),
        "ttft_p99_s": float(np.percentile(ttft, 99)),
        "latency_mean_s": float(np.mean(latency)),
    }


def _spent(target: Target) -> tuple[float, float, float]:
    """Return CPU seconds of this process, the router's and the workers' so far."""
    return time.process_time(), cpu_seconds(target.routers), cpu_seconds(target.workers)
