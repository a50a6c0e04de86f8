"""SGLang's public router and Preble in front of the same two real servers, each with its own engine.

The prompts are text made of Python's standard library: tool use and long documents, a dozen prefixes that many requests
share, of which a server's KV cache holds 60 %. All sides speak HTTP with the servers: the router's client sends text to
/v1/completions through the router; Preble, in the client's own process, sends ids of the same tokens, and reads the KV
events that the servers publish.
Requests arrive in open loop, Poisson, at a part of the pace at which the servers, asked in turn with nothing between,
serve the same prompts with four at once each, measured first; answers have 16 tokens, greedily. Times count from the
intended arrival. The HTTP client has every read acknowledged at once, because sglang-router leaves Nagle's algorithm on
towards its clients. vLLM computes in the process of its core: one of its own would spin while it waits.

The servers run all the time; for each measurement their caches are emptied, and router and scheduler start anew. The
order of the sides turns from round to round. A figure is the median over rounds; a ratio is taken within each round.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from bench.micro.figures import turns
from bench.peers.answer import Target
from bench.peers.attempts import Rounds, Skipped, attempted
from bench.peers.engine_sides import OUTPUT_TOKENS, SIDES, Served, Side, completion, directly
from bench.peers.environment import UnavailableError
from bench.peers.load import Measured, replay, together
from bench.peers.servers import servers
from bench.progress import progress
from bench.workloads.stdlib import Topic, requests, topics
from preble.testing import make_model

CONTEXT = 4096
CACHE_SHARE = 0.6
ZIPF = 0.5
AT_ONCE = 4
"""Requests at once on each server while it has no pause."""
_TRIES, _SECONDS_BETWEEN_TRIES = 100, 0.1


class Scale(msgspec.Struct, frozen=True):
    """How much is measured: rounds, servers, prefixes of each kind, requests, and the part of the servers' pace."""

    rounds: int
    servers: int
    topics: int
    requests: int
    utilisation: float


FULL = Scale(rounds=6, servers=2, topics=6, requests=160, utilisation=0.8)
QUICK = Scale(rounds=1, servers=2, topics=2, requests=16, utilisation=0.8)


async def measure(kind: str, scale: Scale) -> tuple[Rounds, Skipped]:
    """Return what each round of each side gave, and why some have none. Raises UnavailableError without the servers."""
    chosen = topics(scale.topics, scale.topics)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
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
    """Return how many requests a second the servers serve, asked in turn without pauses, once they are warm."""
    pace = 0.0
    with progress("measuring", 2) as done:
        for count in (2 * scale.servers, scale.requests):
            await emptied(served)
            asked = requests(chosen, count, rate=1.0, seed=scale.rounds, exponent=ZIPF)
            target = directly(served)  # with new connections: servers close those that are idle
            found = await together(target, [completion(one.prompt) for one in asked], AT_ONCE * scale.servers)
            target.client.close()
            pace = found["requests_per_s"]
            done()
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
