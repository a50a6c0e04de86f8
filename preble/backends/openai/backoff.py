"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable


def pause(
    failures: int,
    *,
    first: float,
    limit: float,
    retry_after: float | None = None,
    draw: Callable[[float, float], float] = random.uniform,
) -> float:
    """Return the seconds to wait after so many failures in a row.

    That is a random share, between a half and all, of min(limit, first * 2 ** (failures - 1)): the spread keeps clients
    apart. It is at least what the server asked for, `retry_after`, as far as that is within `limit`.
    """
    longest = min(limit, first * 2.0 ** min(failures - 1, 30))
    return max(longest * draw(0.5, 1.0), min(retry_after or 0.0, limit))
