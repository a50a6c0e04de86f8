"""Play a workload against a running cluster in open loop, and sum up what its users saw."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from bench.workloads import Request
from preble import PrebleCluster, SamplingParams, simulate
from preble.simulate.sessions import Sessions
from preble.tokens import pack


class Record(msgspec.Struct, frozen=True):
    """How one request went. `ttft` and `latency` are seconds since its intended arrival, `end` since the start.

    `text` is empty where there is no tokenizer.
    """

    token_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    worker: str
    ttft: float
    latency: float
    end: float
    text: str = ""


async def play(cluster: PrebleCluster, requests: Sequence[Request], done: Callable[[], object]) -> list[Record]:
    """Send each text request at its arrival, whatever became of those before it; call `done` after each. Greedy."""
    begin = asyncio.get_running_loop().time()

    async def one(request: Request) -> Record:
        await until(begin + request.arrival)
        record = await send(cluster, request.prompt, _greedy(request.max_tokens), begin, begin + request.arrival)
        done()
        return record

    return await asyncio.gather(*map(one, requests))


async def serve(
    cluster: PrebleCluster, requests: Sequence[simulate.Request], vocabulary: int, done: Callable[[], object]
) -> list[Record]:
    """Play what the simulator plays: open loop by arrival, closed loops by session, with true outputs in later prompts.

    Tokens are taken modulo `vocabulary`. Records are in the order of the requests; `done` is called after each. Greedy.
    """
    begin = asyncio.get_running_loop().time()
    sessions, records = Sessions(requests), dict[int, Record]()

    async def one(index: int, arrival: float) -> None:
        await until(arrival)
        request = requests[index]
        prompt = _within(sessions.prompt(index), vocabulary)
        sampling = _greedy(request.output_tokens)
        record = await send(cluster, prompt, sampling, begin, arrival, session=request.session)
        records[index] = record
        done()
        for following, gap in sessions.ended(index, pack(record.token_ids)):
            group.create_task(one(following, begin + record.end + gap))

    async with asyncio.TaskGroup() as group:
        for index, request in enumerate(requests):
            if request.arrival is not None:
                group.create_task(one(index, begin + request.arrival))
    return [records[index] for index in range(len(requests))]


async def until(time: float) -> None:
    """Wait for a time of the loop's clock."""
    await asyncio.sleep(time - asyncio.get_running_loop().time())


async def send(
    cluster: PrebleCluster,
    prompt: Any,
    sampling: SamplingParams,
    begin: float,
    arrival: float,
    *,
    session: str | None = None,
    show: Callable[[str], object] = bool,
) -> Record:
    """Send a request that was due at `arrival`, a time of the loop's clock, and read it to its end.

    `prompt` is what `PrebleCluster.stream` takes; `show` is called with each new piece of text.
    """
    clock = asyncio.get_running_loop().time
    token_ids, texts = list[int](), list[str]()
    first = 0.0
    async for chunk in cluster.stream(prompt, sampling, session=session):
        if chunk.token_ids and not token_ids:
            first = clock()
        token_ids.extend(chunk.token_ids)
        texts.append(chunk.text)
        show(chunk.text)
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
        "".join(texts),
    )


def _greedy(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)


def _within(prompt: bytes, vocabulary: int) -> bytes:
    """Take tokens modulo the vocabulary: equal prefixes stay equal."""
    return (np.frombuffer(prompt, dtype="<i4") % vocabulary).astype("<i4").tobytes()


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
