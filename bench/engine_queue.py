"""What our queue in front of vLLM costs: the same requests to the engine directly, and through it, in turns.

One vLLM in its usual form, with a process for its core, on a model of 5 million random parameters. All requests are
put at once, from a cold cache: directly, so that they wait in vLLM's own line, and as a worker does, so that they wait
in our `LocalScheduler`, which lets in as few as keep vLLM's batch full and reads its KV events to know what is cached.
`distinct` prompts share nothing: there is no order better than another, and what is left is the queue's cost. Those of
`toolbench` share prefixes: there the order matters too. Ratios are through the queue / directly, within each round: of
output tokens a second; of CPU seconds of this process, which has the queue and vLLM's front end; and of vLLM's steps,
of which batches that are not full need more.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from bench.engines import engine_options
from bench.live.setting import vocabulary_of
from bench.live.traffic import workload
from bench.micro.figures import Figures, turns
from bench.progress import progress
from bench.report import command_line, completed, positive, save
from preble import SamplingParams
from preble.backends import EngineRequest
from preble.backends.vllm.engine import VllmEngine
from preble.simulate import Request
from preble.testing import make_model
from preble.tokens import pack, unpack

OUTPUT_TOKENS = 16
DISTINCT_TOKENS = 256
KV_TOKENS = 65_536
GREEDY = SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True)
WARMING = 16

Tokens = list[tuple[int, ...]]
Feed = Callable[[Any, Sequence[EngineRequest]], Awaitable[Tokens]]


class Run(msgspec.Struct, frozen=True):
    """One way through all requests: wall-clock and CPU seconds, the engine's steps, and what was generated."""

    seconds: float
    cpu: float
    steps: int
    tokens: Tokens


async def measure(model: Path, rounds: int, count: int) -> Figures:
    """Start the engine, feed it in both ways in turns, and return the figures. Raises what starting raises."""
    sizes = {
        "kv_tokens": KV_TOKENS,
        "context_limit": 4096,
        "block_size": 32,
        "max_running": 64,
        "max_batched_tokens": 512,
    }
    options = engine_options("vllm", **sizes) | {"mode": "async"}
    options["discipline"] = "fcfs"  # as vLLM has it: the queue is compared, not its order
    engine = VllmEngine(model=str(model), **options)
    await engine.start()
    figures = Figures()
    try:
        for name, prompts in (("distinct", distinct(count)), ("toolbench", shared(count, vocabulary_of(str(model))))):
            await compare(engine, name, prompts, rounds, figures)
    finally:
        await engine.close()
    return figures


async def compare(engine: Any, name: str, prompts: Sequence[bytes], rounds: int, figures: Figures) -> None:
    """Feed the prompts in both ways in every round; note speeds and ratios. Raises ValueError if tokens differ."""
    requests = [EngineRequest(number, prompt, GREEDY) for number, prompt in enumerate(prompts, 1)]
    for feed in FEEDS.values():
        await feed(engine, requests[:WARMING])
    runs: dict[str, list[Run]] = {way: [] for way in FEEDS}
    with progress(name, rounds * len(FEEDS)) as done:
        for _, way in turns(tuple(FEEDS), rounds):
            runs[way].append(await timed(engine, FEEDS[way], requests))
            done()
    note(name, runs["direct"], runs["queued"], figures)


def note(name: str, direct: Sequence[Run], queued: Sequence[Run], figures: Figures) -> None:
    """Note what was measured of one kind of prompts. Raises ValueError if both ways did not give the same tokens."""
    pairs = list(zip(direct, queued, strict=True))
    if any(one.tokens != other.tokens for one, other in pairs):
        raise ValueError(f"{name}: directly and through the queue the tokens are not the same")
    for way, runs in (("direct", direct), ("queued", queued)):
        figures.note(f"{name}_{way}_tokens_per_s", [sum(map(len, run.tokens)) / run.seconds for run in runs])
        figures.note(f"{name}_{way}_cpu_ms_per_request", [run.cpu / len(run.tokens) * 1e3 for run in runs])
    figures.note(f"{name}_throughput_ratio", [one.seconds / other.seconds for one, other in pairs])
    figures.note(f"{name}_cpu_ratio", [other.cpu / one.cpu for one, other in pairs])
    figures.note(f"{name}_steps_ratio", [other.steps / one.steps for one, other in pairs])


async def timed(engine: Any, feed: Feed, requests: Sequence[EngineRequest]) -> Run:
    """Feed all requests from a cold cache."""
    await engine.reset_cache()
    recorder, steps = engine._last_step, itertools.count()
    tell = recorder._on_step
    recorder._on_step = lambda *step: (next(steps), tell(*step))
    began, cpu = time.perf_counter(), time.process_time()
    tokens = await feed(engine, requests)
    run = Run(time.perf_counter() - began, time.process_time() - cpu, next(steps), tokens)
    recorder._on_step = tell
    return run


async def direct(engine: Any, requests: Sequence[EngineRequest]) -> Tokens:
    """Put all requests into vLLM itself."""
    from vllm.inputs import tokens_input

    from preble.backends.vllm.requests import sampling_params

    async def one(request: EngineRequest) -> tuple[int, ...]:
        prompt, found = tokens_input(list(unpack(request.tokens))), list[int]()
        stream = engine._llm.generate(prompt, sampling_params(request.sampling), str(request.id))
        async with aclosing(stream) as outputs:
            async for output in outputs:
                found.extend(output.outputs[0].token_ids)
        return tuple(found)

    return await asyncio.gather(*map(one, requests))


async def queued(engine: Any, requests: Sequence[EngineRequest]) -> Tokens:
    """Put all requests into the engine as a worker does."""

    async def one(request: EngineRequest) -> tuple[int, ...]:
        return tuple([token async for delta in engine.generate(request) for token in unpack(delta.tokens)])

    return await asyncio.gather(*map(one, requests))


FEEDS: dict[str, Feed] = {"direct": direct, "queued": queued}


def distinct(count: int) -> list[bytes]:
    """Return prompts that differ from their first token on."""
    return [
        pack([(number * 131 + index * 7) % 4000 + 6 for index in range(DISTINCT_TOKENS)]) for number in range(count)
    ]


def shared(count: int, vocabulary: int) -> list[bytes]:
    """Return the prompts of tool use, of a thousand tokens or so."""

    def prompt(request: Request) -> bytes:
        return pack([token % vocabulary for token in unpack(request.prompt())])

    return [prompt(request) for request in workload("toolbench", count, 0)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; return 0, or 2 if something is wrong with the setting."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=positive(int), help="of each kind of prompts (8)")
    parser.add_argument("--requests", type=positive(int), help="in each round (64)")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder (default: one is made)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 24, to see that it works")
    return completed("bench.engine_queue", run(parser.parse_args(argv)))


async def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    rounds = options.rounds or (2 if options.quick else 8)
    count = options.requests or (24 if options.quick else 64)
    figures = await measure(options.model or make_model("out/model"), rounds, count)
    save(options.json, "engine_queue", figures.metrics, spread=figures.spread, rounds=rounds, requests=count)
    for name in (name for name in figures.metrics if name.endswith("_ratio")):
        low, high = figures.spread[name]
        print(f"{name}: {figures.metrics[name]:.3f}, 10th to 90th percentile {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    sys.exit(main())
