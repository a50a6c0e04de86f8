"""Programming problems (APPS): instructions that all share, several candidate solutions for each problem."""

from __future__ import annotations

from itertools import islice
from typing import Literal

from bench.workloads.arrivals import poisson
from bench.workloads.draws import chance, draws, lognormal, shuffled, stratified
from preble.simulate import Request

INSTRUCTIONS = 2_400
PROBLEM = lognormal(1_471, 1_656, 80, 8_000)
NONCE = 22
CANDIDATES = lognormal(19, 12, 1, 100)
OUTPUT = lognormal(190, 343, 8, 2_048)
MAX_TOKENS = 2_048
PROBLEMS = {"2-gpu": 100, "4-gpu": 200, "full": 160}


def programming(
    *, rate: float = 1.0, requests: int = 3_750, seed: int = 0, size: Literal["2-gpu", "4-gpu", "full"] = "4-gpu"
) -> list[Request]:
    """Independent requests, Poisson, over 100, 200 or 160 problems; more for more requests."""
    problems = max(PROBLEMS[size], -(-requests // 18))
    lengths = stratified(PROBLEM, problems, chance("programming", seed, "problems"))
    counts = stratified(CANDIDATES, problems, chance("programming", seed, "candidates"))
    asked = [problem for problem, times in enumerate(counts) for _ in range(times)]
    asked = shuffled(asked, chance("programming", seed, "order"))
    arrivals = poisson(rate, chance("programming", seed, "arrivals"))
    outputs = draws(OUTPUT, chance("programming", seed, "output"))
    return [
        Request(
            arrival=arrival,
            segments=((0, INSTRUCTIONS), (1 + problem, lengths[problem]), (problems + 1 + index, NONCE)),
            output_tokens=output,
            max_tokens=MAX_TOKENS,
        )
        for index, (problem, arrival, output) in islice(
            enumerate(zip(asked, arrivals, outputs, strict=False)), requests
        )
    ]
