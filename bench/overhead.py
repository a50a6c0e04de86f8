"""What the library adds to a request: `python -m bench.overhead --json FILE`.

Two workers with the `sim` engine that answers at once, over ipc, prompts of 200 tokens, one token out. Latency with one
request at a time, by `stream`; requests per second with 64 at once, by `generate`; CPU of the caller's process alone.
The same run measures a bare ZeroMQ round trip of such a message, which is the floor: machines differ by a factor of
two. Caches are large enough to evict nothing; the `evicting` figures are with caches that are always full.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Sequence

import numpy as np
import uvloop

from bench.report import command_line, positive, save
from preble import PrebleCluster, SamplingParams
from preble.transport.zeromq import Dealer, Router

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


async def round_trip(count: int) -> np.ndarray:
    """Seconds of a bare ZeroMQ round trip to another process, with the sockets and the loop that a cluster uses."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    router = Router(lambda peer, frame: answer.set_result(None))
    context = multiprocessing.get_context("spawn")
    echo = context.Process(target=_echo, args=(router.address,), daemon=True)
    echo.start()
    times = []
    await answer
    for _ in range(count):
        answer = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        router.send(b"echo", bytes(4 * PROMPT_TOKENS))
        await answer
        times.append(time.perf_counter() - began)
    echo.kill()
    router.close()
    return np.array(times)


def _echo(address: str) -> None:
    async def serve() -> None:
        dealer = Dealer(address, b"echo", lambda frame: dealer.send(frame))
        dealer.send(b"ready")
        await asyncio.sleep(600)

    uvloop.run(serve())


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


async def serve(requests: int, rounds: int, kv_tokens: int) -> dict[str, float]:
    """Medians over `rounds`, each beside a bare round trip."""
    chunk, floor, rate, cpu = [], [], [], []
    async with PrebleCluster(backend="sim", workers=2, engine_options={"kv_tokens": kv_tokens}) as cluster:
        await cluster.generate_many(prompts(500, 0), ONE_TOKEN)
        for seed in range(1, rounds + 1):
            floor.append(float(np.percentile(await round_trip(1000), 50)))
            chunk.append(np.percentile(await first_chunk(cluster, prompts(1000, 2 * seed)), [50, 99]))
            per_second, seconds = await throughput(cluster, prompts(requests, 2 * seed + 1), 64)
            rate.append(per_second)
            cpu.append(seconds)
    halves = np.array(chunk)[:, 0]
    return {
        "first_chunk_p50_us": float(np.median(halves)) * 1e6,
        "first_chunk_p99_us": float(np.median(np.array(chunk)[:, 1])) * 1e6,
        "zmq_round_trip_p50_us": float(np.median(floor)) * 1e6,
        "first_chunk_per_round_trip": float(np.median(halves / floor)),
        "requests_per_s_64": float(np.median(rate)),
        "requests_per_s_64_least": min(rate),
        "requests_per_s_64_most": max(rate),
        "caller_cpu_us_per_request_64": float(np.median(cpu)) * 1e6,
    }


async def measure(requests: int, rounds: int) -> dict[str, float]:
    """Return all figures."""
    needed = PROMPT_TOKENS * (500 + rounds * (1000 + requests))
    roomy = await serve(requests, rounds, needed)
    full = await serve(requests, rounds, needed // 100)
    up, down = zip(*[await lifetime(4) for _ in range(3)], strict=True)
    return {
        **roomy,
        "evicting_first_chunk_p50_us": full["first_chunk_p50_us"],
        "evicting_requests_per_s_64": full["requests_per_s_64"],
        "start_4_workers_s": float(np.median(up)),
        "close_4_workers_s": float(np.median(down)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = command_line(__doc__)
    parser.add_argument("--requests", type=positive(int), help="requests per throughput round (5000)")
    parser.add_argument("--rounds", type=positive(int), help="(5)")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop", help="the caller's event loop")
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a look")
    options = parser.parse_args(argv)
    run = uvloop.run if options.loop == "uvloop" else asyncio.run
    requests, rounds = (1000, 2) if options.quick else (5000, 5)
    metrics = run(measure(options.requests or requests, options.rounds or rounds))
    save(options.json, "overhead", metrics, loop=options.loop)


if __name__ == "__main__":
    main()
