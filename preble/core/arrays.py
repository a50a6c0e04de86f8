"""Arrays with an entry per slot, and the masks of slots (a bit per slot) that select from them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Slots = NDArray[np.intp]


@lru_cache(maxsize=4096)
def indices(mask: int) -> Slots:
    """Return the slots whose bits are set in `mask`, as an index array that nobody may change."""
    raw = np.frombuffer(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), dtype=np.uint8)
    return np.flatnonzero(np.unpackbits(raw, bitorder="little"))
