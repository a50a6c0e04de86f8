"""Coding agents with contexts to 128k: growing sessions of dozens of turns, behind shared heads."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import count, islice
from statistics import NormalDist

from bench.workloads.arrivals import poisson
from bench.workloads.draws import chance, continuous, popular, shuffled, stratified, table
from preble.simulate import Request
from preble.simulate.request import Segment

LIMIT = 131_072
HEADS = (19, 17, 8, 6, 5, *[4] * 5, *[3] * 5, *[2] * 15, *[1] * 26)
"""Sessions, relatively, with the same tool definitions and system prompt."""
HEAD = table("0:8256 .25:10600 .5:12600 .75:14700 1:16900")
FIRST = table("0:300 .05:700 .1:1300 .25:4000 .5:8000 .75:20000 .9:56000 .95:79000 1:112000")
TURNS = table("0:3 .05:4 .1:7 .25:13 .5:27 .75:60 .9:82 .95:118 .99:161 1:252")
MEAN_TURNS = 40.7
GROWTH, GROWTH_SIGMA = 2_200, 0.6
"""Tokens a turn, before a session's own log-normal factor of mean 1."""
OUTPUT = table("0:40 .05:80 .1:99 .25:133 .5:207 .75:381 .9:821 .95:1405 .99:4080 .999:6500 1:12600")
ADDED = continuous("0:1 .1:5 .25:37 .5:212 .75:775 .9:2443 .95:4725 .99:13500 1:83000")
"""Relative sizes of what tools and users add."""
CHANGES, REWRITES, COMPACTS = 0.015, 0.008, 0.004
"""Probability that a turn changes the last segment; everything behind the head; starts anew from the head."""
THINK = continuous("0:.5 .05:3 .1:4 .25:5 .5:8 .75:33 .9:258 .95:606 .99:2713 1:72000")
LONGEST_THINK = 60.0
MAX_TOKENS = 16_384

Prompt = tuple[Segment, ...]


def coding(*, rate: float = 40.7 / 60, requests: int = 5_944, seed: int = 0) -> list[Request]:
    """Closed loops: sessions start at `rate` / 40.7 a second, Poisson, by default one a minute."""
    sessions = max(1, round(requests / MEAN_TURNS))
    heads = shuffled(stratified(HEAD, len(HEADS), chance("coding", seed, "heads")), chance("coding", seed, "order"))
    groups = popular(HEADS, chance("coding", seed, "groups"))
    turns = stratified(TURNS, sessions, chance("coding", seed, "turns"))
    starts = poisson(rate / MEAN_TURNS, chance("coding", seed, "arrivals"))
    segments = count(len(HEADS))
    made: list[Request] = []
    for index, (start, group) in enumerate(islice(zip(starts, groups, strict=True), sessions)):
        name = f"coding-{index}"
        source = chance(name, seed, "session")
        loop: list[Request] = []
        while not loop:
            loop = _session(name, start, (group, heads[group]), turns[index], source, segments)
        made += loop
    return made


def _session(
    name: str, start: float, head: Segment, turns: int, source: random.Random, segments: Iterator[int]
) -> list[Request]:
    """Draw a session; empty if one of its prompts is too long."""
    first = head[1] + FIRST(source.random())
    while LIMIT - first < min(1000 * turns, 90_000):
        first = head[1] + FIRST(source.random())
    outputs = [OUTPUT(source.random()) for _ in range(turns)]
    added = _added(first, outputs, source)
    prompt: Prompt = (head, (next(segments), first - head[1]))
    made: list[Request] = []
    for turn, output in enumerate(outputs):
        if sum(length for _, length in prompt) + output >= LIMIT:
            return []
        output_segment = next(segments)
        made.append(
            Request(
                arrival=None if turn else start,
                session=name,
                turn=turn,
                gap=min(THINK(source.random()), LONGEST_THINK) if turn else 0.0,
                segments=prompt,
                output_tokens=output,
                output_segment=output_segment,
                max_tokens=MAX_TOKENS,
            )
        )
        if turn + 1 < turns:
            prompt = _next(prompt, ((output_segment, output), (next(segments), added[turn])), source, segments)
    return made


def _added(first: int, outputs: list[int], source: random.Random) -> list[int]:
    """What is added after each turn but the last, scaled so that it and the outputs add up to the session's growth."""
    turns = len(outputs)
    factor = math.exp(GROWTH_SIGMA * NormalDist().inv_cdf(source.random()) - GROWTH_SIGMA**2 / 2)
    growth = min(GROWTH * turns * factor, (LIMIT - first) * (0.9 + 0.1 * source.random()))
    weights = [ADDED(source.random()) for _ in range(turns - 1)]
    scale = max(0.02, (growth - sum(outputs[:-1])) / sum(weights)) if weights else 1.0
    return [max(1, round(weight * scale)) for weight in weights]


def _next(prompt: Prompt, appended: Prompt, source: random.Random, segments: Iterator[int]) -> Prompt:
    """The next turn's prompt: mostly this one and what came after it."""
    head, fate = prompt[0], source.random()
    if fate < COMPACTS:
        return head, (next(segments), 300 + int(11_700 * source.random()))
    if fate < COMPACTS + REWRITES:
        return head, (next(segments), sum(length for _, length in prompt[1:] + appended))
    if fate < COMPACTS + REWRITES + CHANGES:
        return *prompt[:-1], (next(segments), prompt[-1][1]), *appended
    return prompt + appended
