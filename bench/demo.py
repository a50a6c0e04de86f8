"""Two worker processes with a real model serve the same requests under round robin and under E2.

Tool use and long documents, made of Python's standard library: the requests share 12 long prefixes. First each prefix
is served once with nothing cached, to learn how fast this machine is and how many tokens the prefixes have. Then
requests arrive at random, 1.6 times as often as two workers could serve them with nothing cached (--load), and the KV
cache of a worker holds 60 % of the prefixes: not all, but more than half. So round robin, which sends every prefix to
both workers, computes again what was evicted meanwhile, and E2, which sends a prefix where it is, seldom does. Both
serve the same prompts at the same times, greedily, from cold caches, and have to return the same tokens. Times to the
first token count from the intended arrival. The weights are random, so answers are noise; computing them is real work.

`--backend vllm` and `sglang` are the real engines, if they are installed, as `make demo BACKEND=vllm` sees to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.engines import SIMULATED, TRANSLATED, engine_options
from bench.figure import draw
from bench.live import Record, play, summary
from bench.progress import progress
from bench.report import command_line, completed, positive, save, write
from bench.workloads import Request
from bench.workloads.stdlib import Topic, requests, topics
from preble import PrebleCluster, SamplingParams
from preble.testing import make_model

POLICIES = ("round-robin", "e2")
WORKERS = 2
CACHE_SHARE = 0.6
ZIPF = 0.5
MAX_TOKENS = 16
CONTEXT = 4096
"""Tokens of the longest sequence; no prompt has as many."""
SECONDS_TO_START = 300.0

ROWS = {
    "requests": ("requests", "{:,}"),
    "prompt_tokens": ("prompt tokens", "{:,}"),
    "cached_tokens": ("cached tokens", "{:,}"),
    "ttft_mean": ("TTFT mean, s", "{:.3f}"),
    "ttft_p50": ("TTFT p50, s", "{:.3f}"),
    "ttft_p99": ("TTFT p99, s", "{:.3f}"),
    "latency_mean": ("latency mean, s", "{:.3f}"),
    "latency_p99": ("latency p99, s", "{:.3f}"),
    "output_tokens_per_s": ("output tokens/s", "{:.1f}"),
}
"""Keys of a policy's result: their names and formats in the table."""


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


async def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure, serve, report and write the files; return 0, or 1 if the policies gave different tokens."""
    model = arguments.model or str(make_model(arguments.out / "model"))
    chosen = topics(2, 2) if arguments.quick else topics(6, 6)
    machine = await measure(model, arguments.backend, chosen)
    setting = describe(model, arguments, chosen, machine, console)
    records = {policy: await serve(policy, setting) for policy in POLICIES}
    differing = differences(*records.values())
    policies = {policy: summary(of) for policy, of in records.items()}
    write(
        arguments.out / "result.json",
        {"backend": arguments.backend, "same_tokens": not differing, "policies": policies},
    )
    draw(records, arguments.out / "figure.png")
    if arguments.json:
        save(arguments.json, "demo", flat(policies))
    show(policies, differing, console)
    console.print(f"Written: {arguments.out / 'result.json'} and {arguments.out / 'figure.png'}", soft_wrap=True)
    return 1 if differing else 0


async def measure(model: str, backend: str, topics: Sequence[Topic]) -> Machine:
    """Serve each prefix once, one at a time on each worker."""
    prompts = [topic.prefix + topic.questions[0] for topic in topics]
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0, ignore_eos=True)
    with progress("measuring", len(prompts)) as done:
        async with cluster(model, backend, "least-loaded") as workers:
            await workers.generate_many([prompt[::-1] for prompt in prompts[:WORKERS]], sampling)  # warms up
            begin = time.perf_counter()
            generations = await workers.generate_many(
                prompts, sampling, concurrency=WORKERS, progress=lambda count: done()
            )
            seconds = (time.perf_counter() - begin) * WORKERS / len(prompts)
    return Machine(seconds, sum(generation.usage.prompt_tokens for generation in generations))


def describe(
    model: str, arguments: argparse.Namespace, topics: list[Topic], machine: Machine, console: Console
) -> Setting:
    """Choose the arrivals and the cache for this machine, and say so."""
    rate = arguments.load * WORKERS / machine.seconds
    count = max(6 * len(topics), round(rate * arguments.seconds))
    kv_tokens = round(CACHE_SHARE * machine.tokens)
    console.print(
        f"{count} requests, {rate:.1f} a second, share {len(topics)} prefixes of {machine.tokens:,} tokens in all. "
        f"{WORKERS} workers cache {kv_tokens:,} tokens each and take {machine.seconds:.2f} s for a request not cached."
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
        workers=WORKERS,
        policy=policy,
        engine_options=options,
        start_timeout=SECONDS_TO_START,
    )


def differences(first: Sequence[Record], second: Sequence[Record]) -> list[int]:
    """Return the numbers of the requests whose tokens are not the same."""
    pairs = zip(first, second, strict=True)
    return [number for number, (one, other) in enumerate(pairs) if one.token_ids != other.token_ids]


def show(policies: dict[str, dict[str, Any]], differing: list[int], console: Console) -> None:
    """Print the table, whether the tokens are the same, and how much sooner they came."""
    console.print(table(policies))
    if differing:
        numbers = ", ".join(map(str, differing))
        console.print(f"{len(differing)} requests got different tokens: {numbers}")
    else:
        console.print("Both policies returned the same tokens for every request.")
    console.print(f"Mean time to first token: {ratio(policies):.2f} times shorter with {POLICIES[1]}.")


def flat(policies: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return all numbers of the policies, and the ratio of their mean TTFTs, as metrics."""
    metrics = {f"{policy.replace('-', '_')}_{key}": result[key] for policy, result in policies.items() for key in ROWS}
    return metrics | {"ttft_mean_ratio": ratio(policies)}


def ratio(policies: dict[str, dict[str, Any]]) -> float:
    """Return how many times longer the mean TTFT is with the first policy than with the second."""
    slow, fast = (float(policies[policy]["ttft_mean"]) for policy in POLICIES)
    return slow / fast


def table(policies: dict[str, dict[str, Any]]) -> Table:
    """Return a table with a column for each policy."""
    grid = Table("", *policies)
    for column in grid.columns[1:]:
        column.justify = "right"
    for key, (name, form) in ROWS.items():
        grid.add_row(name, *(form.format(result[key]) + share(key, result) for result in policies.values()))
    for worker in sorted({worker for result in policies.values() for worker in result["per_worker"]}):
        grid.add_row(f"{worker}: requests, computed", *(load(result, worker) for result in policies.values()))
    return grid


def share(key: str, result: dict[str, Any]) -> str:
    """Return what to add to a number: for cached tokens their part of all."""
    return f" ({result[key] / result['prompt_tokens']:.0%})" if key == "cached_tokens" else ""


def load(result: dict[str, Any], worker: str) -> str:
    """Return the requests of a worker and the prompt tokens it computed."""
    mine = result["per_worker"].get(worker, {"requests": 0, "computed_tokens": 0})
    return f"{mine['requests']:,}, {mine['computed_tokens']:,}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--backend",
        choices=("torch", "vllm", "sglang", "sim"),
        default="torch",
        help="sim computes nothing and only takes the time (%(default)s)",
    )
    parser.add_argument("--model", help="a Hugging Face folder (default: one with 5M random parameters is made)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for results (%(default)s)")
    parser.add_argument("--seconds", type=positive(float), help="for how long requests arrive (18)")
    parser.add_argument(
        "--load", type=positive(float), default=1.6, help="1 is what two workers serve uncached (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and questions (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="4 prefixes and 2 seconds, to see that it works")
    arguments = parser.parse_args(argv)
    arguments.seconds = arguments.seconds or (2.0 if arguments.quick else 18.0)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return 0, or 1 if the policies' tokens differ, or 2 if something is wrong with the setting."""
    return completed("bench.demo", run(parse(argv), Console(highlight=False)))


if __name__ == "__main__":
    sys.exit(main())
