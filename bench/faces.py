"""What each way into a cluster costs: `python -m bench.faces --json FILE`.

One cluster with two `sim` workers is asked the same chats natively, by OpenAI's client in this process, and by OpenAI's
client over HTTP to a server in this process. CPU is that of this process, which is client, server and scheduler; the
workers have their own. A request is a chat of one token, not streamed, one at a time. A chunk is one event of a stream,
from the difference between long and short streams, 4 at once; a step of the engine takes two to three milliseconds, so
that on an idle machine each token is a chunk.

`sdk` is OpenAI's client with the least that can stand between it and the cluster: its transport asks natively, and
shows it the recorded bytes of such an answer, one event for each chunk. What is `ours` is the client in this process
less `sdk`. All are measured in turn, round by round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import msgspec
import numpy as np
import openai
import uvloop

from bench.report import command_line, positive, save
from preble import PrebleCluster, SamplingParams

TOKENS = 128
"""Of a long stream; a short one has 1."""
AT_ONCE = 4
"""Streams whose chunks are counted."""
ENGINE = {"time_scale": 0.1}
"""A step takes two to three milliseconds, so that each token is a chunk."""
CHAT = [{"role": "user", "content": "What does each way into a cluster cost, for a request and for a token of it?"}]
Ask = Callable[[int, bool], Awaitable[tuple[float, int]]]
"""Ask for some tokens, streamed or not; seconds to the first chunk with text, and how many chunks came."""


class Cost(NamedTuple):
    """Of one face in one round, in microseconds."""

    request: float
    chunk: float
    token: float
    first: float


def _sampling(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, ignore_eos=True)


def native(cluster: PrebleCluster) -> Ask:
    """By `PrebleCluster.generate` and `stream`."""

    async def ask(tokens: int, stream: bool) -> tuple[float, int]:
        sampling, began, first, chunks = _sampling(tokens), time.perf_counter(), 0.0, 0
        if not stream:
            await cluster.generate(CHAT, sampling)
            return 0.0, 1
        async for _ in cluster.stream(CHAT, sampling):
            first = first or time.perf_counter() - began
            chunks += 1
        return first, chunks

    return ask


def by_client(client: openai.AsyncOpenAI) -> Ask:
    """By OpenAI's client, whatever it is connected to."""

    async def ask(tokens: int, stream: bool) -> tuple[float, int]:
        options: Any = {"model": "sim", "messages": CHAT, "max_tokens": tokens, "extra_body": {"ignore_eos": True}}
        began, first, chunks = time.perf_counter(), 0.0, 0
        if not stream:
            await client.chat.completions.create(**options)
            return 0.0, 1
        async with await client.chat.completions.create(stream=True, **options) as events:
            async for event in events:
                first = first or (time.perf_counter() - began if event.choices else 0.0)
                chunks += 1
        return first, chunks

    return ask


async def recorded(cluster: PrebleCluster) -> openai.AsyncOpenAI:
    """Return a client whose transport asks natively, and then shows the recorded bytes of such an answer."""
    library: Any = import_module("httpx2" if int(openai.__version__.partition(".")[0]) >= 3 else "httpx")
    kept: dict[bytes, tuple[Any, list[bytes]]] = {}

    class Body(library.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, parts: list[bytes], body: dict[str, Any]) -> None:
            self.parts, self.body = parts, body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            parts = iter(self.parts)
            if self.body.get("stream"):
                async for _ in cluster.stream(self.body["messages"], _sampling(self.body["max_tokens"])):
                    yield next(parts, b"")
            else:
                await cluster.generate(self.body["messages"], _sampling(self.body["max_tokens"]))
            for part in parts:
                yield part

    class Transport(library.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            body = b"".join([part async for part in request.stream])
            headers, parts = kept[body] if body in kept else await record(body)
            return library.Response(200, headers=headers, stream=Body(parts, msgspec.json.decode(body)))

    async def record(body: bytes) -> tuple[Any, list[bytes]]:
        send = {"content": body, "headers": {"content-type": "application/json"}}
        async with (
            cluster.httpx_client(library) as client,
            client.stream("POST", "/v1/chat/completions", **send) as answer,
        ):
            kept[body] = answer.headers, [part async for part in answer.aiter_raw()]
        return kept[body]

    http = library.AsyncClient(transport=Transport())
    return openai.AsyncOpenAI(api_key="none", base_url="http://recorded/v1", http_client=http)


async def cost(ask: Ask, requests: int) -> Cost:
    """Measure one face."""
    await asyncio.gather(*[ask(TOKENS, True) for _ in range(AT_ONCE)])
    request, _, _ = await _cpu(ask, requests, 1, stream=False)
    _, _, first = await _cpu(ask, requests, 1, stream=True)
    short, few, _ = await _cpu(ask, requests, 1, stream=True, at_once=AT_ONCE)
    long, many, _ = await _cpu(ask, max(AT_ONCE, requests // 10), TOKENS, stream=True, at_once=AT_ONCE)
    return Cost(request, (long - short) / (many - few), (long - short) / (TOKENS - 1), first)


async def _cpu(ask: Ask, requests: int, tokens: int, *, stream: bool, at_once: int = 1) -> tuple[float, float, float]:
    """Microseconds of CPU and number of chunks for each request, and the median time to the first chunk."""
    began = time.process_time()
    answers: list[tuple[float, int]] = []
    while len(answers) < requests:
        answers += await asyncio.gather(*[ask(tokens, stream) for _ in range(at_once)])
    spent = (time.process_time() - began) * 1e6 / len(answers)
    firsts, chunks = zip(*answers, strict=True)
    return spent, float(np.mean(chunks)), float(np.median(firsts)) * 1e6


async def measure(requests: int, rounds: int) -> dict[str, float]:
    """Return all figures: medians over the rounds, and for what is ours the median of each round's difference."""
    async with (
        PrebleCluster(backend="sim", workers=2, engine_options=ENGINE) as cluster,
        cluster.serve_http() as url,
        cluster.openai() as inside,
        openai.AsyncOpenAI(api_key="none", base_url=url) as outside,
        await recorded(cluster) as sdk,
    ):
        faces = {
            "native": native(cluster),
            "sdk": by_client(sdk),
            "client": by_client(inside),
            "http": by_client(outside),
        }
        costs = [{name: await cost(ask, requests) for name, ask in faces.items()} for _ in range(rounds)]
    return {**_medians(costs), **_ours(costs)}


def _medians(costs: list[dict[str, Cost]]) -> dict[str, float]:
    return {
        f"{name}_{field}_us": float(np.median([getattr(each[name], field) for each in costs]))
        for name in costs[0]
        for field in Cost._fields
    }


def _ours(costs: list[dict[str, Cost]]) -> dict[str, float]:
    def median(of: Callable[[Cost], float]) -> float:
        return float(np.median([of(each["client"]) - of(each["sdk"]) for each in costs]))

    later = [each["client"].first - each["native"].first for each in costs]
    return {
        "ours_request_us": median(lambda cost: cost.request),
        "ours_chunk_us": median(lambda cost: cost.chunk),
        "client_first_after_native_us": float(np.median(later)),
        "client_per_native_request": float(
            np.median([each["client"].request / each["native"].request for each in costs])
        ),
        "http_per_client_request": float(np.median([each["http"].request / each["client"].request for each in costs])),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = command_line(__doc__)
    parser.add_argument("--requests", type=positive(int), help="requests per face and round (500)")
    parser.add_argument("--rounds", type=positive(int), help="(5)")
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a look")
    options = parser.parse_args(argv)
    requests, rounds = (100, 2) if options.quick else (500, 5)
    metrics = uvloop.run(measure(options.requests or requests, options.rounds or rounds))
    save(options.json, "faces", metrics, tokens=TOKENS, at_once=AT_ONCE, openai=openai.__version__)


if __name__ == "__main__":
    main()
