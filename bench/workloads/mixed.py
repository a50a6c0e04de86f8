"""The paper's mixed run: tool use and video questions at once, each with arrivals like those of Azure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from bench.workloads.arrivals import azure_code, azure_conversation
from bench.workloads.draws import chance
from bench.workloads.toolbench import toolbench
from bench.workloads.videoqa import videoqa
from preble.simulate import Request

PACE = 0.7
"""What the authors multiplied the recorded times by."""
RATE = 7.0
"""Requests a second of both streams that this gives, about."""
_APART = 1 << 32


def mixed(
    *, rate: float = RATE, requests: int = 4_000, seed: int = 0, tools: Literal["code", "conversation"] = "code"
) -> list[Request]:
    """Independent requests, half of them of each kind; times are those of the paper, scaled by `rate` / 7.

    The paper says that tool use follows the arrivals of code completions; its published script takes conversations.
    """
    half, pace = requests // 2, PACE * RATE / rate
    video = videoqa(requests=requests - half, seed=seed)
    tool = toolbench(requests=half, seed=seed, sets=180, popularity="even")
    source = chance("mixed", seed, tools)
    times = azure_code(source) if tools == "code" else azure_conversation(source)
    both = [
        *_at(times, tool, pace, 0),
        *_at(azure_conversation(chance("mixed", seed, "video")), video, pace, _APART),
    ]
    return sorted(both, key=lambda request: request.arrival or 0.0)


def _at(times: Iterator[float], requests: Iterable[Request], pace: float, apart: int) -> Iterator[Request]:
    """The requests at other times; `apart` keeps their segments from being those of others."""
    for arrival, request in zip(times, requests, strict=False):
        segments = tuple((segment + apart, length) for segment, length in request.segments)
        yield msgspec.structs.replace(request, arrival=arrival * pace, segments=segments)
