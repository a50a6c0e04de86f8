"""SGLang's public router and Preble in front of the same two real servers, each with its own engine.

The prompts are text made of Python's standard library: tool use and long documents, a dozen prefixes that many requests
share, of which a server's KV cache holds 60 %. Both sides go over HTTP to /v1/completions: the router's client through
the router, Preble's from the client's own process, where it also reads the KV events that the servers publish.
Requests arrive in open loop, Poisson, at a part of the pace at which the servers, asked in turn with nothing between,
serve the same prompts with four at once each, measured first; answers have 16 tokens, greedily. Times count from the
intended arrival. The HTTP client has every read acknowledged at once, because sglang-router leaves Nagle's algorithm on
towards its clients.

The servers run all the time; for each measurement their caches are emptied, and router and scheduler start anew. The
order of the sides turns from round to round. A figure is the median over rounds; a ratio is taken within each round.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from bench.micro.figures import turns
from bench.peers.answer import Target
from bench.peers.attempts import Rounds, Skipped, attempted
from bench.peers.embedded import Embedded
from bench.peers.environment import UnavailableError
from bench.peers.load import Measured, replay, together
from bench.peers.over_http import Meta, OverHTTP, last_part, post
from bench.peers.routers import SGLANG_ROUTER, serving
from bench.peers.servers import NAME, Server, servers
from bench.progress import progress
from bench.workloads.stdlib import Topic, requests, topics
from preble import PrebleCluster, SamplingParams
from preble.testing import make_model

CONTEXT = 4096
CACHE_SHARE = 0.6
ZIPF = 0.5
OUTPUT_TOKENS = 16
AT_ONCE = 4
"""Requests at once on each server while it has no pause."""
_SECONDS_TO_START = 60.0
_TRIES, _SECONDS_BETWEEN_TRIES = 100, 0.1


class Scale(msgspec.Struct, frozen=True):
    """How much is measured: rounds, servers, prefixes of each kind, requests, and the part of the servers' pace."""

    rounds: int
    servers: int
    topics: int
    requests: int
    utilisation: float


FULL = Scale(rounds=3, servers=2, topics=6, requests=120, utilisation=0.8)
QUICK = Scale(rounds=1, servers=2, topics=2, requests=16, utilisation=0.8)


class Served(msgspec.Struct, frozen=True):
    """What all sides have in common: the servers, the model, and a folder for logs."""

    servers: list[Server]
    model: Path
    folder: Path


class Side(msgspec.Struct, frozen=True):
    """How to start what is in front of the servers, and how it takes a request."""

    start: Callable[[Served], AbstractAsyncContextManager[Target]]
    prepare: Callable[[str], Any]


class Details(msgspec.Struct, frozen=True):
    """A part of the last event's counts."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """The counts in the last event."""

    prompt_tokens: int
    prompt_tokens_details: Details | None = None


class Last(msgspec.Struct, frozen=True):
    """The part of the last event that is read."""

    usage: Usage


async def measure(kind: str, scale: Scale) -> tuple[Rounds, Skipped]:
    """Return what each round of each side gave, and why some have none. Raises UnavailableError without the servers."""
    chosen = topics(scale.topics, scale.topics)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "model")
        kv_tokens = round(CACHE_SHARE * tokens_of(model, chosen))
        async with servers(kind, model, scale.servers, kv_tokens=kv_tokens, context=CONTEXT, folder=folder) as started:
            return await _measured(Served(started, model, folder), chosen, scale)


async def _measured(served: Served, chosen: list[Topic], scale: Scale) -> tuple[Rounds, Skipped]:
    pace = await sustained(served, chosen, scale)
    rounds: Rounds = {side: [{} for _ in range(scale.rounds)] for side in SIDES}
    skipped: Skipped = {}
    with progress(f"{pace * scale.utilisation:.1f} a second", scale.rounds * len(SIDES) * scale.requests) as done:
        for number, side in turns(tuple(SIDES), scale.rounds):
            work = partial(replayed, SIDES[side], served, chosen, scale, pace, number, done)
            rounds[side][number] |= await attempted(side, skipped, work)
    return {side: measured for side, measured in rounds.items() if side not in skipped}, skipped


def tokens_of(model: Path, chosen: Sequence[Topic]) -> int:
    """Return the tokens of all prefixes."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return sum(len(tokenizer.encode(topic.prefix).ids) for topic in chosen)


async def sustained(served: Served, chosen: list[Topic], scale: Scale) -> float:
    """Return how many requests a second the servers serve, asked in turn without pauses."""
    target = directly(served)
    warm, asked = (
        [completion(one.prompt) for one in requests(chosen, count, rate=1.0, seed=scale.rounds, exponent=ZIPF)]
        for count in (2 * scale.servers, scale.requests)
    )
    with progress("measuring", 1) as done:
        await together(target, warm, scale.servers)
        await emptied(served)
        pace = (await together(target, asked, AT_ONCE * scale.servers))["requests_per_s"]
        done()
    target.client.close()
    return pace


async def replayed(
    side: Side,
    served: Served,
    chosen: list[Topic],
    scale: Scale,
    pace: float,
    number: int,
    done: Callable[[], object],
) -> Measured:
    """Measure a side once; a round's requests are the same for all sides."""
    rate = pace * scale.utilisation
    arriving = requests(chosen, scale.requests, rate=rate, seed=number, exponent=ZIPF, max_tokens=OUTPUT_TOKENS)
    async with side.start(served) as target:
        await answering(target, side.prepare("Are you there?"))
        await emptied(served)
        asked = [side.prepare(request.prompt) for request in arriving]
        return await replay(target, asked, [request.arrival for request in arriving], done)


async def answering(target: Target, request: Any) -> None:
    """Ask until there is an answer: a router takes a while to believe that its workers are well.

    Raises UnavailableError if it never does.
    """
    for left in reversed(range(_TRIES)):
        try:
            await target.ask(request)
            return
        except UnavailableError:
            if not left:
                raise
            await asyncio.sleep(_SECONDS_BETWEEN_TRIES)


async def emptied(served: Served) -> None:
    """Empty all caches."""
    for server in served.servers:
        await server.reset()


def directly(served: Served) -> OverHTTP:
    """Return the servers, asked in turn."""
    return OverHTTP(
        [server.port for server in served.servers], [], [server.pid for server in served.servers], counts=counts
    )


@asynccontextmanager
async def routed(policy: str, served: Served) -> AsyncIterator[OverHTTP]:
    """Yield the servers behind SGLang's router. Raises UnavailableError."""
    ports, log = [server.port for server in served.servers], served.folder / "router.log"
    async with serving(SGLANG_ROUTER, policy, ports, log) as (port, pid):
        target = OverHTTP([port], [pid], [server.pid for server in served.servers], counts=counts)
        yield target
        target.client.close()


@asynccontextmanager
async def connected(policy: str, served: Served) -> AsyncIterator[Embedded]:
    """Yield a cluster that the servers were connected to."""
    async with PrebleCluster.connect(
        [server.url for server in served.servers],
        model=served.model,
        kv_events=[server.events for server in served.servers],
        policy=policy,
        start_timeout=_SECONDS_TO_START,
    ) as cluster:
        await cluster.reset_cache()
        yield Embedded(cluster, [server.pid for server in served.servers])


def completion(prompt: str) -> bytes:
    """Return the whole HTTP request for a streamed completion."""
    return post(
        "/v1/completions",
        msgspec.json.encode(
            {
                "model": NAME,
                "prompt": prompt,
                "max_tokens": OUTPUT_TOKENS,
                "temperature": 0.0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ),
    )


def counts(stream: bytes) -> Meta:
    """Return the counts of a completion: they are in its last event."""
    usage = msgspec.json.decode(last_part(stream), type=Last).usage
    details = usage.prompt_tokens_details
    return Meta(usage.prompt_tokens, (details and details.cached_tokens) or 0)


def asked_of_cluster(prompt: str) -> tuple[str, SamplingParams]:
    """Return the arguments of `stream`."""
    return prompt, SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True)


SIDES = {
    "sglang-router cache_aware": Side(partial(routed, "cache_aware"), completion),
    "sglang-router round_robin": Side(partial(routed, "round_robin"), completion),
    "preble e2": Side(partial(connected, "e2"), asked_of_cluster),
    "preble round-robin": Side(partial(connected, "round-robin"), asked_of_cluster),
}
