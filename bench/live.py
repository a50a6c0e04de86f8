"""Play a workload against a running cluster in open loop, and sum up what its users saw."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from bench.workloads import Request
from preble import PrebleCluster, SamplingParams


class Record(msgspec.Struct, frozen=True):
    """How one request went. `ttft` and `latency` are seconds since its intended arrival, `end` since the start."""

    token_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    worker: str
    ttft: float
    latency: float
    end: float


async def play(cluster: PrebleCluster, requests: Sequence[Request], done: Callable[[], object]) -> list[Record]:
    """Send each request at its arrival, whatever became of those before it; call `done` after each. Greedy."""
    begin = asyncio.get_running_loop().time()

    async def one(request: Request) -> Record:
        record = await _one(cluster, request, begin)
        done()
        return record

    return await asyncio.gather(*map(one, requests))


async def _one(cluster: PrebleCluster, request: Request, begin: float) -> Record:
    clock = asyncio.get_running_loop().time
    arrival = begin + request.arrival
    await asyncio.sleep(arrival - clock())
    token_ids: list[int] = []
    first = 0.0
    sampling = SamplingParams(max_tokens=request.max_tokens, temperature=0.0, ignore_eos=True)
    async for chunk in cluster.stream(request.prompt, sampling):
        if chunk.token_ids and not token_ids:
            first = clock()
        token_ids.extend(chunk.token_ids)
    end = clock()
    assert chunk.usage is not None
    usage = chunk.usage
    return Record(
        tuple(token_ids),
        usage.prompt_tokens,
        usage.cached_tokens,
        chunk.worker,
        first - arrival,
        end - arrival,
        end - begin,
    )


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Return counts, times in seconds, and what each worker was sent and had to compute."""
    ttft = [record.ttft for record in records]
    latency = [record.latency for record in records]
    return {
        "requests": len(records),
        "prompt_tokens": sum(record.prompt_tokens for record in records),
        "cached_tokens": sum(record.cached_tokens for record in records),
        "ttft_mean": statistics.fmean(ttft),
        "ttft_p50": float(np.percentile(ttft, 50)),
        "ttft_p99": float(np.percentile(ttft, 99)),
        "latency_mean": statistics.fmean(latency),
        "latency_p99": float(np.percentile(latency, 99)),
        "output_tokens_per_s": sum(len(record.token_ids) for record in records) / max(record.end for record in records),
        "per_worker": {worker: _share(records, worker) for worker in sorted({record.worker for record in records})},
    }


def _share(records: Sequence[Record], worker: str) -> dict[str, int]:
    mine = [record for record in records if record.worker == worker]
    prompt, cached = sum(record.prompt_tokens for record in mine), sum(record.cached_tokens for record in mine)
    return {"requests": len(mine), "cached_tokens": cached, "computed_tokens": prompt - cached}
