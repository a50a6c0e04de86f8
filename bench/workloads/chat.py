"""Production chat (Mooncake conversation): most requests share one block only, the others long conversations."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from bench.workloads.arrivals import poisson
from bench.workloads.draws import chance, exponential, table
from preble.simulate import Request
from preble.simulate.request import Segment

BLOCK = 512
NEW_SHARE = 0.916
"""Of sessions: they share nothing but the first block. The others begin like an earlier request."""
NEW = table("0:891 .05:898 .1:906 .25:1400 .5:5700 .6:8000 .7:11260 .8:16470 .9:26160 .95:39570 .99:92360 1:124800")
KEPT = table("0:2 .18:3 .31:4 .4:5 .5:6 .75:15 .9:31 .95:47 .99:145 1:200")
KEEPING = table("0:1260 .05:5600 .1:7100 .25:10650 .5:15300 .75:22840 .9:31800 .95:41600 1:96500")
AGO = exponential(400)
GOES_ON = (0.27, 0.40, 0.54, 0.54, 0.63)
"""Probability of another turn after turn 0, 1, ..."""
GAP_MEDIAN, GAP_SIGMA = 123.0, 0.95
ADDED = table("0:1 .1:4 .25:9 .5:25 .6:47 .7:161 .75:352 .8:704 .9:4208 .95:7440 .99:17400 .995:21500 1:91000")
OUTPUT = table(
    "0:1 .02:3 .05:10 .1:24 .15:45 .2:98 .25:155 .3:216 .4:298 .5:356 .75:476 .9:606 .95:712 .99:1168 .999:2000 1:2000"
)
MEAN_TURNS = 1.52
LONGEST = 125_000
MAX_TOKENS = 2_000

Prompt = tuple[Segment, ...]


def chat(*, rate: float = 1.0, requests: int = 7_851, seed: int = 0) -> list[Request]:
    """Open loop, as recorded: a next turn comes minutes after the one before it, whatever became of that."""
    source = chance("chat", seed, "sessions")
    starts = poisson(rate / MEAN_TURNS, chance("chat", seed, "arrivals"))
    segments, sessions = count(1), count()
    due: list[tuple[float, int, int, Prompt]] = [(next(starts), next(sessions), 0, ())]
    made: list[Request] = []
    while len(made) < requests:
        arrival, session, turn, prompt = heappop(due)
        if turn == 0:
            heappush(due, (next(starts), next(sessions), 0, ()))
            prompt = _first(made, source, segments)
        output = OUTPUT(source.random())
        made.append(
            Request(
                arrival=arrival,
                session=f"chat-{session}",
                turn=turn,
                segments=prompt,
                output_tokens=output,
                max_tokens=MAX_TOKENS,
            )
        )
        following = _next(made[-1], source, segments)
        if following and source.random() < GOES_ON[min(turn, len(GOES_ON) - 1)]:
            gap = GAP_MEDIAN * math.exp(source.gauss(0, GAP_SIGMA))
            heappush(due, (arrival + gap, session, turn + 1, following))
    return made


def _first(made: list[Request], source: random.Random, segments: Iterator[int]) -> Prompt:
    if source.random() < NEW_SHARE or not made:
        return (0, BLOCK), (next(segments), NEW(source.random()) - BLOCK)
    earlier = made[-1 - min(len(made) - 1, int(AGO(source.random())))]
    kept = cut(earlier.segments, min(KEPT(source.random()), earlier.prompt_tokens // BLOCK) * BLOCK)
    own = KEEPING(source.random()) - sum(length for _, length in kept)
    return *kept, (next(segments), max(1, own))


def _next(request: Request, source: random.Random, segments: Iterator[int]) -> Prompt:
    """The next turn's prompt keeps the whole blocks of this one; empty if it would be too long."""
    length = request.prompt_tokens
    whole = length - length % BLOCK
    total = length + request.output_tokens + ADDED(source.random())
    return (*cut(request.segments, whole), (next(segments), total - whole)) if total <= LONGEST else ()


def cut(prompt: Prompt, tokens: int) -> Prompt:
    """Return the first `tokens` tokens of a prompt."""
    kept: list[Segment] = []
    for segment, length in prompt:
        if tokens <= 0:
            break
        kept.append((segment, min(length, tokens)))
        tokens -= length
    return tuple(kept)
