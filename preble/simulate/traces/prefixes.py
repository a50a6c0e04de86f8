"""Traces that say which prompts share a beginning: segments, block ids, and runs of block ids."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from preble.simulate.request import Request, Segment
from preble.simulate.traces.files import UNNAMED, records


def segments(path: str | Path, *, speed: float = 1.0) -> list[Request]:
    """Segment lists, JSON lines: `p` prompt as [segment, tokens] pairs, `o` output tokens, `t` arrival at 1 request/s.

    Closed loops also have `s` session, `k` turn, `gap` seconds and `os`, the segment that the output becomes.
    """
    return [_from_segments(row, speed) for row in records(path)]


def blocks(
    path: str | Path, *, speed: float = 1.0, block: int = 512, unit: float = 1e-3, jitter: float = 3.0, seed: int = 0
) -> list[Request]:
    """Requests with a `hash_ids` entry per `block` tokens (Mooncake; Qwen-Bailian with `block=16, unit=1, jitter=0`).

    `unit` is that of `timestamp` in seconds. Mooncake's times come in steps of 3 s: up to `jitter` seconds are added to
    each, from `seed`. A `chat_id` and `parent_chat_id`, where there are, name sessions.
    """
    source = random.Random(seed)  # noqa: S311  not for secrets
    sessions: dict[object, str] = {}
    made = []
    for index, row in enumerate(records(path)):
        chat = row.get("chat_id")
        session = sessions.get(row.get("parent_chat_id"), None if chat is None else f"chat-{chat}")
        if chat is not None and session is not None:
            sessions[chat] = session
        made.append(
            Request(
                arrival=(float(row["timestamp"]) * unit + source.random() * jitter) / speed,
                session=session,
                turn=max(0, int(row.get("turn", 1)) - 1),
                segments=_from_blocks(row["hash_ids"], int(row["input_length"]), block, index),
                output_tokens=max(1, int(row["output_length"])),
            )
        )
    return sorted(made, key=lambda request: request.arrival or 0.0)


def agents(path: str | Path, *, speed: float = 1.0, every: float = 60.0, seed: int = 0) -> list[Request]:
    """Sessions of coding agents in runs of 64-token block ids (`bs`, `b`, `s`, `k`, `think`, `inp`, `out`).

    The source has no starts: they are Poisson, one in `every` / `speed` seconds, from `seed`. Closed loops: a turn is
    sent `think` seconds after the one before it.
    """
    source = random.Random(seed)  # noqa: S311  not for secrets
    start, made, known = 0.0, [], dict[int, Segment]()
    for index, row in enumerate(records(path)):
        first = int(row["k"]) == 0
        if first:
            start += source.expovariate(speed / every)
        think = row.get("think")
        made.append(
            Request(
                arrival=start if first else None,
                session=str(row["s"]),
                turn=int(row["k"]),
                gap=0.0 if first else 8.0 if think is None else float(think),
                segments=_from_runs(row["b"], int(row["inp"]), int(row["bs"]), index, known),
                output_tokens=max(1, int(row["out"])),
            )
        )
    return made


def _from_segments(row: dict[str, Any], speed: float) -> Request:
    session = row.get("s")
    return Request(
        arrival=None if row["t"] is None else float(row["t"]) / speed,
        session=None if session is None else str(session),
        turn=int(row.get("k") or 0),
        gap=float(row.get("gap") or 0.0),
        segments=tuple((int(segment), int(tokens)) for segment, tokens in row["p"]),
        output_tokens=max(1, int(row["o"])),
        output_segment=row.get("os"),
    )


def _from_blocks(ids: list[int], length: int, block: int, index: int) -> tuple[Segment, ...]:
    """The last block may be partial; what is left over has no id."""
    whole = [(int(name), block) for name in ids[: length // block]]
    rest = length - block * len(whole)
    if not rest:
        return tuple(whole)
    return (*whole, (int(ids[len(whole)]) if len(ids) > len(whole) else UNNAMED + index, rest))


def _from_runs(
    runs: list[list[int]], length: int, block: int, index: int, known: dict[int, Segment]
) -> tuple[Segment, ...]:
    """Blocks one by one, since a run may be part of another request's; `known` lets requests share them."""
    ids = (name for first, blocks in runs for name in range(first, first + blocks))
    named = [known.setdefault(name, (name, block)) for name in ids]
    rest = length - block * len(named)
    return (*named, (UNNAMED + index, rest)) if rest > 0 else tuple(named)
