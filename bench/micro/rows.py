"""The rows of the benchmark: each fills its own schedulers, measures them and notes the figures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TypeAlias

import msgspec
import numpy as np

from bench.micro.figures import Figures, Round, micro
from bench.micro.prompts import Prompts, unpacked
from bench.micro.served import DIFFERENT, OUTPUT, Served
from preble.core.policies import POLICIES

LENGTH, WORKERS = 8192, 64
"""Tokens of a prompt and workers, unless a row says otherwise."""

Take: TypeAlias = Callable[[int], list[bytes]]

POLICIES_GROWN = tuple(policy for policy in ("e2", "e2-paper") if policy in POLICIES)


class Scale(msgspec.Struct, frozen=True):
    """How much is measured: requests before timing, queries in a round, rounds, requests of the long stream."""

    requests: int
    queries: int
    rounds: int
    stream: int


FULL = Scale(requests=20_000, queries=1500, rounds=5, stream=100_000)
QUICK = Scale(requests=1000, queries=300, rounds=3, stream=4000)


def decisions(figures: Figures, scale: Scale) -> None:
    """Decide on hits from packed tokens and from lists, and finish."""
    prompts = Prompts(LENGTH, scale.requests)
    served = Served(workers=WORKERS).fill(islice(prompts, scale.requests))
    served.time(prompts.take(500))
    calls = [served.time(prompts.take(scale.queries)) for _ in range(scale.rounds)]
    for name, times in zip(("decision_packed", "finish"), zip(*calls, strict=True), strict=True):
        figures.note(f"{name}_p50_us", [micro(spent) for spent in times])
        figures.note(f"{name}_p99_us", [micro(spent, 99) for spent in times])
    figures.note("decisions_per_s", [1e9 / spent.mean() for spent, _ in calls])
    lists = [served.time(unpacked(prompts.take(scale.queries // 5)))[0] for _ in range(scale.rounds)]
    figures.note("decision_list_p50_us", [micro(spent) for spent in lists])


def kinds(figures: Figures, scale: Scale) -> None:
    """Decide on misses, between workers of different speed, and on prefixes that half of the workers hold, and all."""
    prompts = Prompts(LENGTH, scale.requests)
    served = Served(workers=WORKERS).fill(islice(prompts, scale.requests))
    figures.note("decision_miss_p50_us", _rounds(served, prompts.misses, scale))
    served = Served(workers=WORKERS, costs=DIFFERENT).fill(islice(prompts, scale.requests))
    figures.note("decision_different_workers_p50_us", _rounds(served, prompts.take, scale))
    for name, holders in (("half", WORKERS // 2), ("all", WORKERS)):
        replicated = Prompts(LENGTH, 20 * 40, seed=2)
        served = Served(workers=WORKERS)
        for worker in range(holders):
            served.fill([replicated.prefix(group) for group in range(replicated.groups)], f"w{worker}")
        figures.note(f"decision_replicated_{name}_p50_us", _rounds(served, replicated.take, scale))


def workers(figures: Figures, scale: Scale) -> None:
    """Grow from 4 workers to 256."""
    few, many = (_hits(workers, scale.requests, scale) for workers in (4, 256))
    _grow(figures, ("workers_4", "workers_256", "growth_workers_4_to_256"), few, many, scale)


def tree(figures: Figures, scale: Scale) -> None:
    """Grow from 1k requests seen to all of the stream, the window full and expiring; with each form of E2."""
    for policy in POLICIES_GROWN:
        small, large = (_hits(WORKERS, requests, scale, policy) for requests in (1000, scale.stream))
        prefix = policy.replace("-", "_")
        names = f"{prefix}_tree_small", f"{prefix}_tree_large", f"growth_{prefix}_tree"
        _grow(figures, names, small, large, scale)


def lengths(figures: Figures, scale: Scale) -> None:
    """Grow with the prompt: microseconds for each 1k tokens from 1k to 128k, and the ends."""
    ends = []
    for length in (1024, 8192, 32_768, 131_072):
        requests = max(100, scale.requests * 1024 // length)
        prompts = Prompts(length, requests)
        served = Served(workers=WORKERS).fill(islice(prompts, requests))
        queries = max(30, scale.queries * 1024 // length)
        ends.append([micro(served.time(prompts.take(queries))[0]) for _ in range(scale.rounds)])
        figures.note(f"decision_{length // 1024}k_p50_us", ends[-1])
    figures.note("decision_us_per_1k_tokens", (np.array(ends[-1]) - np.array(ends[0])) / 127)


def chains(figures: Figures, scale: Scale) -> None:
    """The 40th turn of conversations in which each turn adds 200 tokens."""
    prompts, served = Prompts(200, 1), Served(workers=WORKERS)
    rounds = [[last_turn(served, prompts) for _ in range(scale.queries // 10)] for _ in range(scale.rounds)]
    figures.note("chain_40_turns_p50_us", [micro(spent) for spent in rounds])


def evicting(figures: Figures, scale: Scale) -> None:
    """Stream through caches of eight prompts a worker: the last requests against those just after the caches filled."""
    prompts = Prompts(LENGTH, scale.stream)
    served = Served(workers=WORKERS, kv_tokens=8 * LENGTH).fill(islice(prompts, 1500))
    early = _rounds(served, prompts.take, scale)
    served.fill(islice(prompts, max(0, scale.stream - served.number)))
    late = _rounds(served, prompts.take, scale)
    figures.note("decision_evicting_p50_us", late)
    figures.note("growth_evicting_stream", np.array(late) / np.array(early))


def _rounds(served: Served, take: Take, scale: Scale) -> list[float]:
    """Return the median decision of each round, after a warm-up."""
    served.time(take(100))
    return [micro(served.time(take(scale.queries // 5))[0]) for _ in range(scale.rounds)]


def _hits(workers: int, requests: int, scale: Scale, policy: str = "e2") -> Round:
    """Return a side that decides on hits in a tree of that many requests."""
    prompts = Prompts(LENGTH, requests)
    served = Served(workers=workers, policy=policy).fill(islice(prompts, requests))
    served.time(prompts.take(100))
    return lambda _: micro(served.time(prompts.take(scale.queries // 5))[0])


def _grow(figures: Figures, names: tuple[str, str, str], first: Round, second: Round, scale: Scale) -> None:
    one, other = figures.compare(names[2], first, second, 2 * scale.rounds)
    figures.note(f"decision_{names[0]}_p50_us", one)
    figures.note(f"decision_{names[1]}_p50_us", other)


def last_turn(served: Served, prompts: Prompts) -> int:
    """Hold a conversation of 40 turns; return what deciding on the last one took, in nanoseconds."""
    history, spent = b"", 0
    for _ in range(40):
        history += prompts.tokens(200)
        spent = served.submit(history)
        served.end()
        history += OUTPUT
    return spent
