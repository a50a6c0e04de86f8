"""What stands in front of real servers: SGLang's router, or Preble; and how each is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.peers.answer import Target
from bench.peers.embedded import Embedded
from bench.peers.over_http import Meta, OverHTTP, last_part, post
from bench.peers.routers import SGLANG_ROUTER, serving
from bench.peers.servers import NAME, Server
from preble import PrebleCluster, SamplingParams

OUTPUT_TOKENS = 16
_SECONDS_TO_START = 60.0


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
