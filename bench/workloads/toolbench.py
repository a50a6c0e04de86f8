"""Tool use (ToolBench): one system prompt for all, a tool set for many requests, a query of one's own."""

from __future__ import annotations

from itertools import count, islice
from typing import Literal

from bench.workloads.arrivals import poisson
from bench.workloads.draws import chance, draws, lognormal, normal, popular, stratified, table, weighted
from preble.simulate import Request

SYSTEM = 308
NONCE = 20
TOOL_SET = table("0:267 .05:360 .1:412 .25:560 .5:857 .75:1246 .9:1651 .95:2080 .99:3373 1:8700")
QUERY = lognormal(58, 13.7, 27, 134)
TAIL = lognormal(120, 110, 0, 1500)
OUTPUT = normal(43, 16, 4, 128)
MAX_TOKENS = 128

Popularity = Literal["zipf", "even", "natural"]


def toolbench(
    *, rate: float = 1.0, requests: int = 12_000, seed: int = 0, sets: int = 400, popularity: Popularity = "zipf"
) -> list[Request]:
    """Independent requests, Poisson. Tool sets are drawn by `popularity`: Zipf 1.1, even, or as in the data set."""
    name = f"toolbench-{popularity}"
    weights = _weights(popularity, sets, seed)
    lengths = weighted(stratified(TOOL_SET, sets, chance(name, seed, "sets")), weights, chance(name, seed, "order"))
    chosen = popular(weights, chance(name, seed, "popularity"))
    arrivals = poisson(rate, chance(name, seed, "arrivals"))
    tails = zip(draws(QUERY, chance(name, seed, "query")), draws(TAIL, chance(name, seed, "tail")), strict=True)
    outputs = draws(OUTPUT, chance(name, seed, "output"))
    segments = count(sets + 1)
    return [
        Request(
            arrival=arrival,
            segments=((0, SYSTEM), (1 + chose, lengths[chose]), (next(segments), query + NONCE + tail)),
            output_tokens=output,
            max_tokens=MAX_TOKENS,
        )
        for arrival, chose, (query, tail), output in islice(
            zip(arrivals, chosen, tails, outputs, strict=True), requests
        )
    ]


def _weights(popularity: Popularity, sets: int, seed: int) -> list[float]:
    if popularity == "natural":
        return [
            float(weight)
            for weight in stratified(lognormal(39, 64, 1, 10_000), sets, chance("natural", seed, "weights"))
        ]
    exponent = 1.1 if popularity == "zipf" else 0.0
    return [rank**-exponent for rank in range(1, sets + 1)]
