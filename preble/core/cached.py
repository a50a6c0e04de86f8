"""How many tokens of a prompt each worker has in its cache."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from preble.core.arrays import Floats, Slots, indices


class CachedTokens(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one prompt that each slot need not compute: whole blocks, and never the prompt's last token.

    `levels` are pairs of a number of tokens and the mask of the slots that hold so many, from the root down. The prompt
    has `length` tokens. `block_size` is one number for all slots, or an array with one for each of the `slots` slots.
    The result is computed when it is asked for.
    """

    levels: Sequence[tuple[int, int]]
    length: int
    block_size: int | Slots
    slots: int

    def on(self, slot: int) -> int:
        """Return the cached tokens of one slot."""
        for depth, mask in reversed(self.levels):
            if mask >> slot & 1:
                usable, size = self.usable(depth), self.block_size
                return usable - usable % (size if isinstance(size, int) else int(size[slot]))
        return 0

    def by_slot(self) -> Floats:
        """Return the cached tokens of every slot."""
        cached, size = np.zeros(self.slots), self.block_size
        for depth, mask in self.levels:
            usable, slots = self.usable(depth), indices(mask)
            cached[slots] = usable - usable % (size if isinstance(size, int) else size[slots])
        return cached

    def usable(self, depth: int) -> int:
        """Return how many of `depth` held tokens a prefill can use, before rounding to blocks."""
        return depth if depth < self.length else self.length - 1
