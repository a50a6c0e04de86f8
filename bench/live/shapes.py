"""Requests of all shapes, to learn what an engine's steps cost."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import count

import msgspec

from preble.simulate import Request

HEADS = 8
SHORTEST = 4
LONGEST_OUTPUT = 24
NAMES = 1 << 40
"""Segments are named from here on. No workload has such: a policy that does not ask engines what they hold, and so
does not know that caches were reset, would take the beginning of a workload's prompt for one of these."""


def shapes(requests: int, longest: int, seed: int, *, outputs: int = LONGEST_OUTPUT) -> list[Request]:
    """Return one request a second, Poisson: up to `longest` tokens, half of them behind one of a few heads.

    Lengths of what is a request's own are log-uniform; those of outputs uniform, from 1 to `outputs`.
    """
    source, names, now = random.Random(seed), count(NAMES + (seed << 20)), 0.0
    heads = [(next(names), max(1, round(longest * (head + 1) / (HEADS + 1)))) for head in range(HEADS)]
    made = []
    for _ in range(requests):
        head = (source.choice(heads),) if source.random() < 0.5 else ()
        room = max(SHORTEST, longest - sum(length for _, length in head))
        own = (next(names), round(math.exp(source.uniform(math.log(SHORTEST), math.log(room)))))
        made.append(Request(arrival=now, segments=(*head, own), output_tokens=source.randint(1, outputs)))
        now += source.expovariate(1.0)
    return made


def looped(requests: Sequence[Request], sessions: int) -> list[Request]:
    """Return the requests as so many closed loops without pauses."""
    return [
        msgspec.structs.replace(
            request, arrival=None if index >= sessions else 0.0, session=f"{index % sessions}", turn=index // sessions
        )
        for index, request in enumerate(requests)
    ]
