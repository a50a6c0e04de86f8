"""Airline agents: sessions of a dozen turns, one prefix of policies and tools that all of them begin with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice

from bench.workloads.arrivals import poisson
from bench.workloads.draws import chance, exponential, lognormal, normal, stratified
from preble.simulate import Request

PREFIX = 3_700
TURNS = normal(12, 4, 3, 30)
MEAN_TURNS = 12
FIRST = lognormal(200, 150, 30, 1_000)
TOOL_SHARE = 0.5
TOOL = lognormal(250, 300, 20, 2_500)
TOOL_GAP = 1.0
USER = lognormal(60, 40, 8, 300)
USER_GAP = exponential(8.0)
OUTPUT = lognormal(80, 80, 5, 600)
MAX_TOKENS = 600


def airline(*, rate: float = 1.0, requests: int = 3_600, seed: int = 0) -> list[Request]:
    """Closed loops: sessions start at `rate` / 12 a second, Poisson; a turn is the answer of a tool, or of a user."""
    sessions = math.ceil(requests / MEAN_TURNS)
    turns = stratified(TURNS, sessions, chance("airline", seed, "turns"))
    starts = poisson(rate / MEAN_TURNS, chance("airline", seed, "arrivals"))
    segments = count(1)
    loops = (
        _session(f"airline-{index}", start, turns[index], seed, segments)
        for index, start in enumerate(islice(starts, sessions))
    )
    return [request for loop in loops for request in loop]


def _session(name: str, start: float, turns: int, seed: int, segments: Iterator[int]) -> Iterator[Request]:
    source = chance(name, seed, "session")
    prompt: tuple[tuple[int, int], ...] = ((0, PREFIX), (next(segments), FIRST(source.random())))
    gap = 0.0
    for turn in range(turns):
        output, output_segment = OUTPUT(source.random()), next(segments)
        yield Request(
            arrival=start if turn == 0 else None,
            session=name,
            turn=turn,
            gap=gap,
            segments=prompt,
            output_tokens=output,
            output_segment=output_segment,
            max_tokens=MAX_TOKENS,
        )
        if source.random() < TOOL_SHARE:
            gap, new = TOOL_GAP, TOOL(source.random())
        else:
            gap, new = USER_GAP(source.random()), USER(source.random())
        prompt += ((output_segment, output), (next(segments), new))
