"""How long to wait before the next try."""

from __future__ import annotations

import random


def pause(failures: int, *, first: float, limit: float, told: float | None = None) -> float:
    """Return the seconds to wait after so many failures in a row: half to all of `first` doubled each time.

    At most `limit`; at least what the server `told`, if that is within it. The spread keeps clients apart.
    """
    grown = min(limit, first * 2.0 ** min(failures - 1, 30))
    return max(grown * random.uniform(0.5, 1.0), min(told or 0.0, limit))  # noqa: S311 - no secret
