"""How much of a prompt each slot need not compute."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from preble.core.arrays import Floats, Slots, indices


class CachedTokens(msgspec.Struct, frozen=True, gc=False):
    """Prompt tokens that slots need not compute: whole blocks, and never the last token. Worked out when asked for.

    `levels` are (tokens, mask of the slots that hold so many), from the root down, of a prompt of `length` tokens.
    `block_size` is that of all slots, in tokens, or an array of theirs; there are `slots` of them.
    """

    levels: Sequence[tuple[int, int]]
    length: int
    block_size: int | Slots
    slots: int

    def on(self, slot: int) -> int:
        """Return the tokens on one slot."""
        for depth, mask in reversed(self.levels):
            if mask >> slot & 1:
                usable, size = self.usable(depth), self.block_size
                return usable - usable % (size if isinstance(size, int) else int(size[slot]))
        return 0

    def by_slot(self) -> Floats:
        """Return the tokens on every slot."""
        cached, size = np.zeros(self.slots), self.block_size
        for depth, mask in self.levels:
            usable, slots = self.usable(depth), indices(mask)
            cached[slots] = usable - usable % (size if isinstance(size, int) else size[slots])
        return cached

    def usable(self, depth: int) -> int:
        """Return how many of `depth` tokens held may be of use, before blocks."""
        return depth if depth < self.length else self.length - 1
