"""The prompts of requests that are not finished: what a worker cannot evict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from preble.core.request import Request
from preble.tree import Match, RadixTree


class Unfinished:
    """Distinct whole blocks of the prompts of the requests on each slot, from `add` to `remove`.

    A block that several requests of a slot share counts once there.
    """

    def __init__(self, *, block_size: int) -> None:
        """`block_size` is in tokens; the rest of a prompt that fills none does not count."""
        self.block_size = block_size
        self.tree = RadixTree(block_size=block_size)
        self._places: dict[Hashable, tuple[int, int]] = {}

    def match(self, tokens: bytes) -> Match:
        """Return how much of the packed `tokens` the requests of each slot have already."""
        return self.tree.match(tokens)

    def add(self, request: Request) -> None:
        """Count the request's prompt on its slot."""
        self._places[request.id] = self.tree.insert(request.tokens, request.slot), request.slot

    def remove(self, request: Request) -> None:
        """The request ended; nothing happens if it was not added."""
        place = self._places.pop(request.id, None)
        if place is not None:
            self.tree.unpin(*place)

    def tokens(self, slot: int) -> int:
        """Return the distinct tokens of whole blocks on `slot`."""
        return self.tree.held_tokens(slot)

    def check(self) -> None:
        """Raise AssertionError if the tree holds anything but what was added and not removed."""
        self.tree.check()
        for slot in {slot for _, slot in self._places.values()}:
            pins = Counter(node for node, at in self._places.values() if at == slot and node)
            assert self.tree.pins(slot) == pins, f"slot {slot}: pins are not those of its requests"
        assert self._places or not self.tree.tokens, "something is left of nothing"
