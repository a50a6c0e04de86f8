"""What `--compare-native` measures on each side, and the loop of such a side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import TypeAlias

from bench.micro.figures import micro
from bench.micro.prompts import Prompts, unpacked
from bench.micro.rows import LENGTH, WORKERS, Scale, last_turn
from bench.micro.served import ALIKE, DIFFERENT, Served
from preble.tokens import TokenInput

Measure: TypeAlias = Callable[[], float]
"""Returns the median decision of some new prompts, in microseconds."""


def _hits(scale: Scale, length: int = LENGTH, workers: int = WORKERS, costs: Sequence[str] = ALIKE) -> Measure:
    """Prompts that share a prefix of 85 %, packed."""
    requests = max(100, scale.requests * 1024 // length)
    prompts = Prompts(length, requests)
    served = Served(workers=workers, costs=costs).fill(islice(prompts, requests))
    return lambda: _decide(served, prompts.take(_queries(scale, length)))


def _lists(scale: Scale) -> Measure:
    """The same as lists of integers."""
    requests = scale.requests * 1024 // LENGTH
    prompts = Prompts(LENGTH, requests)
    served = Served(workers=WORKERS).fill(islice(prompts, requests))
    return lambda: _decide(served, unpacked(prompts.take(_queries(scale))))


def _replicated(scale: Scale) -> Measure:
    """Prefixes that all workers hold."""
    prompts, served = Prompts(LENGTH, 800, seed=2), Served(workers=WORKERS)
    for worker in range(WORKERS):
        served.fill([prompts.prefix(group) for group in range(prompts.groups)], f"w{worker}")
    return lambda: _decide(served, prompts.take(_queries(scale)))


def _branches(scale: Scale) -> Measure:
    """Prompts that follow a path of 40 nodes, at each of which another prompt left it."""
    prompts, served = Prompts(LENGTH, 1), Served(workers=WORKERS)
    path = prompts.tokens(LENGTH)
    served.fill([path[: LENGTH // 40 * depth * 4] + prompts.tokens(50) for depth in range(1, 41)], "w0")
    return lambda: _decide(served, [path + prompts.tokens(200) for _ in range(_queries(scale))])


def _chains(scale: Scale) -> Measure:
    """The 40th turn of conversations: each turn before it is a node of the tree."""
    prompts, served = Prompts(200, 1), Served(workers=WORKERS)
    return lambda: micro([last_turn(served, prompts) for _ in range(scale.queries // 30)])


def _decide(served: Served, prompts: Sequence[TokenInput]) -> float:
    return micro(served.time(prompts)[0])


def _queries(scale: Scale, length: int = LENGTH) -> int:
    return max(30, scale.queries * 1024 // length)


CASES: dict[str, Callable[[Scale], Measure]] = {
    "8k packed, 64 workers": _hits,
    "8k packed, 4 workers": partial(_hits, workers=4),
    "8k packed, 256 workers": partial(_hits, workers=256),
    "8k packed, 64 workers of two speeds": partial(_hits, costs=DIFFERENT),
    "8k packed, held by all 64 workers": _replicated,
    "8k list, 64 workers": _lists,
    "1k packed, 64 workers": partial(_hits, length=1024),
    "128k packed, 64 workers": partial(_hits, length=131_072),
    "40th turn of 200 tokens, 64 workers": _chains,
    "8k packed, after 40 branches, 64 workers": _branches,
}


def serve(scale: Scale) -> None:
    """Answer each name of a case on standard input with a figure; the first time its scheduler is filled before."""
    measures: dict[str, Measure] = {}
    for line in sys.stdin:
        case = line.strip()
        if case not in measures:
            measures = {case: CASES[case](scale)}  # of the cases before nothing is kept
        sys.stdout.write(f"{measures[case]()}\n")
        sys.stdout.flush()
