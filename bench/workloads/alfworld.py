"""Embodied agents (ALFWorld): sessions of up to 50 short turns behind a two-shot prompt for the type of task."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, islice
from typing import Literal

from bench.workloads.arrivals import poisson
from bench.workloads.draws import chance, lognormal, popular, shuffled
from preble.simulate import Request

ID = 5
TWO_SHOT = (1_115, 1_547, 1_349, 1_563, 1_373, 1_342)
"""Prompts of the task types put, clean, heat, cool, puttwo, examine."""
OPENING = (114, 125, 173)
OPENING_WEIGHTS = (0.12, 0.2, 0.68)
TASKS = 67
THOUGHT_SHARE = 0.304
THOUGHT = lognormal(35, 19, 18, 86)
THOUGHT_SEEN = 3
ACTION = lognormal(6.8, 5.4, 4, 71)
SEEN = lognormal(23, 18, 8, 100)
STEPS = 50
STEPS_4_GPU = 14
SOLVED_SHARE = 0.1
"""Of sessions: solved after 12 to 45 steps."""
MAX_TOKENS = 128


def alfworld(
    *,
    rate: float = 1.0,
    requests: int = 8_960,
    seed: int = 0,
    size: Literal["4-gpu", "full"] = "4-gpu",
    ids: bool = True,
) -> list[Request]:
    """Closed loops without pauses: sessions of 14 turns, or of 48 on average, start at `rate` requests a second.

    With `ids` each environment's prompt begins with its own name, so that environments share nothing.
    """
    steps = STEPS_4_GPU if size == "4-gpu" else 48
    sessions = max(1, round(requests / (14 if size == "4-gpu" else 47.3)))
    starts = poisson(rate / steps, chance("alfworld", seed, "arrivals"))
    source = chance("alfworld", seed, "tasks")
    types = [int(source.random() * len(TWO_SHOT)) for _ in range(TASKS)]
    openings = [OPENING[index] for index in islice(popular(OPENING_WEIGHTS, source), TASKS)]
    tasks = shuffled(range(TASKS), source)
    segments = count(TASKS + len(TWO_SHOT))
    made: list[Request] = []
    for index, start in enumerate(islice(starts, sessions)):
        task = tasks[index % TASKS]
        opening = (len(TWO_SHOT) + task, openings[task])
        prompt = ((types[task], TWO_SHOT[types[task]]), opening)
        if ids:
            name = next(segments)
            prompt = ((name, ID), *prompt)
        made += _session(f"alfworld-{index}", start, prompt, size, chance(f"alfworld-{index}", seed, "steps"), segments)
    return made


def _session(
    name: str,
    start: float,
    prompt: tuple[tuple[int, int], ...],
    size: str,
    source: random.Random,
    segments: Iterator[int],
) -> Iterator[Request]:
    for turn in range(_steps(size, source)):
        output_segment = next(segments)
        thinks = source.random() < THOUGHT_SHARE
        output = (THOUGHT if thinks else ACTION)(source.random())
        yield Request(
            arrival=None if turn else start,
            session=name,
            turn=turn,
            segments=prompt,
            output_tokens=output,
            output_segment=output_segment,
            max_tokens=MAX_TOKENS,
        )
        seen = THOUGHT_SEEN if thinks else SEEN(source.random())
        prompt = (*prompt, (output_segment, output), (next(segments), seen))


def _steps(size: str, source: random.Random) -> int:
    if size == "4-gpu":
        return STEPS_4_GPU
    return 12 + int(34 * source.random()) if source.random() < SOLVED_SHARE else STEPS
