"""Copies of hot prefixes, made in the background (the paper's prefix autoscaling of section 3.2, by live prices)."""

from __future__ import annotations

import msgspec

from preble.core.fleet import Fleet
from preble.tokens import TOKEN_BYTES
from preble.tree import RadixTree

PRICE = 2.0
"""Times what computing it takes: a copy must have been worth so much before it is made."""
HALF_LIFE = 60.0
"""Seconds after which what was paid counts half."""
LEAST = 64
"""Tokens below which a prefix is not worth a copy."""
LAST = (1 << 31) - 1
"""The priority of copies: behind all requests."""
_PREFIXES = 4096


class Copy(msgspec.Struct, frozen=True):
    """Let worker `target` compute the prefix `tokens` (packed) before someone has to wait for it there."""

    tokens: bytes
    target: str


class _Rent:
    """What has been paid for having one prefix in too few places: the `depth` where it ends says which it was."""

    __slots__ = ("at", "depth", "seconds")

    def __init__(self, depth: int, now: float) -> None:
        self.depth = depth
        self.seconds = 0.0
        self.at = now

    def pay(self, seconds: float, now: float) -> float:
        """Add to it, after what was paid before has faded; return the sum."""
        self.seconds = self.seconds * 0.5 ** ((now - self.at) / HALF_LIFE) + seconds
        self.at = now
        return self.seconds


class Rents:
    """Rent or buy, for every prefix: a request sent to a loaded holder pays the load that it could have avoided.

    When the requests of a prefix have paid `PRICE` times what it takes to compute it on the least loaded worker, a copy
    is made there, if there is room for it that nobody uses. The break-even rule of ski rental: whatever comes later,
    the cost is within a constant factor of the least. Kept by tree node, for the latest 4096 prefixes; those of a
    namespace or a tenant are left alone.
    """

    def __init__(self) -> None:
        self._rents: dict[int, _Rent] = {}
        self._due: dict[int, _Rent] = {}

    def pay(self, node: int, depth: int, seconds: float, copy_seconds: float, now: float) -> None:
        """A request that found the prefix of `depth` tokens, down to `node`, could have avoided `seconds`."""
        rent = self._rents.get(node)
        if rent is None or rent.depth != depth:
            if len(self._rents) >= _PREFIXES:
                del self._rents[next(iter(self._rents))]
            rent = self._rents[node] = _Rent(depth, now)
        if rent.pay(seconds, now) > PRICE * copy_seconds:
            self._due[node] = rent

    def due(self, tree: RadixTree, fleet: Fleet, now: float) -> list[Copy]:
        """Return the copies to make now, at most one for a worker, and begin to count anew for what they hold."""
        due, self._due = self._due, {}
        found: dict[int, Copy] = {}
        for node, rent in due.items():
            slot = int(fleet.load.argmin())
            key = tree.path(node)
            if (
                slot not in found
                and rent.depth * TOKEN_BYTES == len(key)
                and self._worth(key, rent, slot, tree, fleet, now)
            ):
                found[slot] = Copy(key, str(fleet.names[slot]))
                self._rents.pop(node, None)
        return list(found.values())

    def _worth(self, key: bytes, rent: _Rent, slot: int, tree: RadixTree, fleet: Fleet, now: float) -> bool:
        length = len(key) // TOKEN_BYTES
        missed = length - tree.match(key).length(slot)
        price = PRICE * fleet.slots[slot].work_seconds(missed, length)
        return LEAST <= missed <= fleet.free[slot] and rent.pay(0.0, now) > price
