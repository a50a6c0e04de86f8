"""Traces of lengths and times only: no two prompts share anything, so prefix logic can gain nothing on them.

They are good for arrivals, and for what the logic costs where there is nothing to find.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from preble.simulate.request import Request
from preble.simulate.traces.files import UNNAMED, named_rows, rows


def lengths(path: str | Path, *, speed: float = 1.0) -> list[Request]:
    """CSV with a header: time, prompt tokens, output tokens. Azure LLM inference 2023 and 2024, as published.

    Times are seconds, or dates and then count from the first.
    """
    found = list(rows(path))[1:]
    clock = _clock(found[0][0] if found else "0")
    return [
        _request(index, clock(time) / speed, int(prompt), int(output))
        for index, (time, prompt, output) in enumerate(found)
    ]


def burstgpt(path: str | Path, *, speed: float = 1.0) -> list[Request]:
    """BurstGPT: CSV with `Timestamp` in seconds, `Request tokens` and `Response tokens`; other columns are not read.

    Requests without a response failed, and are left out. Chat turns repeat their conversation, but the trace does not
    say which rows belong together: real hit ratios were higher.
    """
    found = [row for row in named_rows(path) if int(row["Response tokens"]) > 0]
    return [
        _request(index, float(row["Timestamp"]) / speed, int(row["Request tokens"]), int(row["Response tokens"]))
        for index, row in enumerate(found)
    ]


def _request(index: int, arrival: float, prompt: int, output: int) -> Request:
    return Request(arrival=arrival, segments=((UNNAMED + index, max(1, prompt)),), output_tokens=max(1, output))


def _clock(first: str) -> Callable[[str], float]:
    """Return what reads times like the first one."""
    try:
        float(first)
    except ValueError:
        start = datetime.fromisoformat(first)
        return lambda time: (datetime.fromisoformat(time) - start).total_seconds()
    return float
