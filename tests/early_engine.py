"""Simulated engines of which one has news before the other is ready."""

from __future__ import annotations

import asyncio
from pathlib import Path

from preble.backends import EngineInfo, Evicted
from preble.backends.sim import SimEngine


def early(*, folder: str, **options: object) -> SimEngine:
    """The first one tells of a cleared cache with every heartbeat; others start when it has done so."""
    engine, first, told = SimEngine(**options), Path(folder, "first"), Path(folder, "told")
    calls: list[None] = []

    def news() -> list[Evicted]:
        calls.append(None)
        if len(calls) > 1:  # what the call before returned is on its way
            told.touch()
        return [Evicted(b"", 0)]

    start = engine.start

    async def late() -> EngineInfo:
        while not told.exists():  # noqa: ASYNC240
            await asyncio.sleep(0.01)
        return await start()

    try:
        first.touch(exist_ok=False)
        engine.cache_events = news
    except FileExistsError:
        engine.start = late
    return engine
