"""Rounds of several sides, of which some may not be there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.peers.environment import UnavailableError
from bench.peers.load import Measured

Rounds = dict[str, list[Measured]]
Skipped = dict[str, str]


async def attempted(side: str, skipped: Skipped, measure: Callable[[], Awaitable[Measured]]) -> Measured:
    """Return what was measured; nothing of a side that was skipped, or is from now on."""
    if side in skipped:
        return {}
    try:
        return await measure()
    except UnavailableError as error:
        skipped[side] = str(error)
        return {}
