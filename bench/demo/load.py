"""The second act, a load test: two workers with random weights serve the same requests under round robin and under E2.

Tool use and long documents, made of Python's standard library: the requests share 12 long prefixes. First each prefix
is served once with nothing cached, to learn how fast this machine is and how many tokens the prefixes have. Then
requests arrive at random, 1.6 times as often as two workers could serve them with nothing cached (--load), and the KV
cache of a worker holds 60 % of the prefixes: not all, but more than half. So round robin, which sends every prefix to
both workers, computes again what was evicted meanwhile, and E2, which sends a prefix where it is, seldom does. Both
serve the same prompts at the same times, greedily, from cold caches, and have to return the same tokens. Times to the
first token count from the intended arrival. The weights are random, so answers are noise; computing them is real work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console

from bench.demo import sides
from bench.demo.figure import draw
from bench.demo.sides import POLICIES, SECONDS_TO_START, Results, differences, gain, table
from bench.engines import SIMULATED, TRANSLATED, engine_options
from bench.live import Record, play, summary
from bench.progress import progress
from bench.workloads import Request
from bench.workloads.stdlib import Topic, requests, topics
from preble import PrebleCluster, SamplingParams
from preble.testing import make_model

CACHE_SHARE = 0.6
ZIPF = 0.5
MAX_TOKENS = 16
CONTEXT = 4096
"""Tokens of the longest sequence; no prompt has as many."""


class Machine(msgspec.Struct, frozen=True):
    """What the first pass found: seconds of a worker for a request with nothing cached, and tokens of all prefixes."""

    seconds: float
    tokens: int


class Setting(msgspec.Struct, frozen=True):
    """What is the same for both policies."""

    model: str
    backend: str
    kv_tokens: int
    requests: list[Request]


class Loaded(msgspec.Struct, frozen=True):
    """What each policy gave, and the numbers of the requests whose tokens were not the same."""

    policies: Results
    differing: list[int]


async def run(arguments: argparse.Namespace, console: Console) -> Loaded:
    """Measure, serve, draw and show."""
    console.print("\n[bold]Second act: a load test[/]")
    model = arguments.model or str(make_model(arguments.out / "model"))
    chosen = topics(2, 2) if arguments.quick else topics(6, 6)
    machine = await measure(model, arguments.backend, chosen)
    setting = describe(model, arguments, chosen, machine, console)
    records = {policy: await serve(policy, setting) for policy in POLICIES}
    draw(records, arguments.out / "figure.png")
    found = Loaded({policy: summary(of) for policy, of in records.items()}, differences(*records.values()))
    show(found, console)
    return found


async def measure(model: str, backend: str, topics: Sequence[Topic]) -> Machine:
    """Serve each prefix once, one at a time on each worker."""
    prompts = [topic.prefix + topic.questions[0] for topic in topics]
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0, ignore_eos=True)
    with progress("measuring", len(prompts)) as done:
        async with cluster(model, backend, "least-loaded") as workers:
            await workers.generate_many([prompt[::-1] for prompt in prompts[: sides.WORKERS]], sampling)  # warms up
            begin = time.perf_counter()
            generations = await workers.generate_many(
                prompts, sampling, concurrency=sides.WORKERS, progress=lambda count: done()
            )
            seconds = (time.perf_counter() - begin) * sides.WORKERS / len(prompts)
    return Machine(seconds, sum(generation.usage.prompt_tokens for generation in generations))


def describe(
    model: str, arguments: argparse.Namespace, topics: list[Topic], machine: Machine, console: Console
) -> Setting:
    """Choose the arrivals and the cache for this machine, and say so."""
    rate = arguments.load * sides.WORKERS / machine.seconds
    count = max(6 * len(topics), round(rate * arguments.seconds))
    kv_tokens = round(CACHE_SHARE * machine.tokens)
    console.print(
        f"{count} requests, {rate:.1f} a second, share {len(topics)} prefixes of {machine.tokens:,} tokens in all. "
        f"{sides.WORKERS} workers cache {kv_tokens:,} tokens each and take {machine.seconds:.2f} s for a request not "
        "cached."
    )
    arrivals = requests(topics, count, rate=rate, seed=arguments.seed, exponent=ZIPF, max_tokens=MAX_TOKENS)
    return Setting(model, arguments.backend, kv_tokens, arrivals)


async def serve(policy: str, setting: Setting) -> list[Record]:
    """Play all requests against a new cluster."""
    with progress(policy, len(setting.requests)) as done:
        async with cluster(setting.model, setting.backend, policy, kv_tokens=setting.kv_tokens) as workers:
            return await play(workers, setting.requests, done)


def cluster(model: str, backend: str, policy: str, **options: Any) -> PrebleCluster:
    """Return a cluster, not yet started. The simulated engine gets the times of a small model on a CPU."""
    if backend in SIMULATED:
        options |= SIMULATED[backend] | {"context_limit": 8192}
    elif backend in TRANSLATED:
        options = engine_options(backend, context_limit=CONTEXT, max_running=64, max_batched_tokens=512, **options)
    return PrebleCluster(
        model,
        backend=backend,
        workers=sides.WORKERS,
        policy=policy,
        engine_options=options,
        start_timeout=SECONDS_TO_START,
    )


def show(found: Loaded, console: Console) -> None:
    """Print the table, whether the tokens are the same, and how much sooner they came."""
    console.print(table(found.policies))
    if found.differing:
        numbers = ", ".join(map(str, found.differing))
        console.print(f"{len(found.differing)} requests got different tokens: {numbers}")
    else:
        console.print("Both policies returned the same tokens for every request.")
    console.print(gain(found.policies))


def result(found: Loaded) -> dict[str, Any]:
    """Return whether the tokens are the same, and the summaries, as plain data."""
    return {"same_tokens": not found.differing, "policies": found.policies}
