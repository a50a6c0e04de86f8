"""What a router believes to be cached where, from nothing but its own decisions."""

from __future__ import annotations

from array import array
from collections import Counter

import msgspec

from preble.tree import Match, RadixTree

BLOCK_SIZE = 16
"""Tokens of a block of the index of SGLang's rule and of SMG's: what does not fill one is not seen."""


class GuessIndex:
    """A tree of prompts by the slot that each was sent to.

    The whole prompt is entered when it is sent, not when it is computed, and is not withdrawn if the request fails;
    output is not entered; engines are not asked. Every `interval` seconds each slot is cut to its `limit` most recently
    used tokens, leaves first. `entered` counts the prompts sent to each slot.
    """

    def __init__(self, *, limit: int, interval: float, block_size: int = 1) -> None:
        """`block_size` is the granularity in tokens: what does not fill one is not seen."""
        self.tree = RadixTree(block_size=block_size)
        self.limit = limit
        self.interval = interval
        self.entered: Counter[int] = Counter()
        self._match: Match | None = None
        self._cut_at = -float("inf")

    def match(self, tokens: bytes) -> Match:
        """Return what is believed of the packed `tokens`."""
        self._match = self.tree.match(tokens)
        return self._match

    def enter(self, tokens: bytes, slot: int, now: float, *, payload: array[int] | None = None) -> None:
        """Believe that `slot` holds the packed `tokens`; `payload` is a payload for what is new in the tree."""
        self.entered[slot] += 1
        self.tree.insert(tokens, slot, match=self._match, pin=False, computed=True, payload=payload)
        self._match = None
        if now >= self._cut_at + self.interval:
            self._cut_at = now
            for each in self.entered:
                self.tree.evict(each, self.tree.held_tokens(each) - self.limit)

    def forget(self, slot: int) -> None:
        """The worker at `slot` is gone."""
        del self.entered[slot]
        self.tree.remove_worker(slot)

    def check(self) -> None:
        """Raise AssertionError unless the tree is consistent and nothing in it is pinned."""
        self.tree.check()


class CacheAware(msgspec.Struct, frozen=True, kw_only=True):
    """Options of SGLang's rule, which SMG kept, with the values of their command lines.

    More than `threshold` of a prompt, a share, is a match. Too busy is over `absolute` requests more than others and
    over `relative` times as many. The guess is cut every `interval` seconds to `limit` tokens per worker.
    """

    threshold: float = 0.3
    absolute: float = 64
    relative: float = 1.5
    interval: float = 120.0
    limit: int = 1 << 26

    def index(self) -> GuessIndex:
        """Return an empty index."""
        return GuessIndex(block_size=BLOCK_SIZE, limit=self.limit, interval=self.interval)
