"""Copies of hot prefixes, made in the background (the paper's prefix autoscaling of section 3.2, by live prices)."""

from __future__ import annotations

import msgspec

from preble.core.fleet import Fleet
from preble.tokens import TOKEN_BYTES
from preble.tree import RadixTree
from preble.tree.namespaces import negative

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

    When the requests of a prefix have paid the price of a miss, for computing it on the least loaded worker, a copy is
    made there, if there is room for it that nobody uses. The break-even rule of ski rental: whatever comes later,
    the cost is within a constant factor of the least. Kept by tree node, for the latest 4096 prefixes; those of a
    namespace or a tenant are left alone.
    """

    def __init__(self) -> None:
        self._rents: dict[int, _Rent] = {}
        self._due: dict[int, _Rent] = {}

    def pay(self, node: int, depth: int, seconds: float, price: float, now: float) -> None:
        """A request that found the prefix of `depth` tokens, down to `node`, could have avoided `seconds`.

        At `price`, in seconds too, a copy is due.
        """
        rent = self._rents.get(node)
        if rent is None or rent.depth != depth:
            if len(self._rents) >= _PREFIXES:
                del self._rents[next(iter(self._rents))]
            rent = self._rents[node] = _Rent(depth, now)
        if rent.pay(seconds, now) > price:
            self._due[node] = rent

    def due(self, tree: RadixTree, fleet: Fleet, weight: float, now: float) -> list[Copy]:
        """Return the copies to make now, at most one for a worker, and begin to count anew for what they hold.

        Seconds of computing count `weight` times.
        """
        due, self._due = self._due, {}
        found: dict[int, Copy] = {}
        for node, rent in due.items():
            slot, key = int((fleet.load + fleet.closed("")).argmin()), tree.path(node)
            same = rent.depth * TOKEN_BYTES == len(key)  # else the node has become that of another prefix
            if not same or negative(key) or slot in found:
                continue
            missed = rent.depth - tree.match(key).length(slot)
            price = weight * fleet.slots[slot].work_seconds(missed, rent.depth)
            if LEAST <= missed <= fleet.free[slot] and rent.pay(0.0, now) > price:
                found[slot] = Copy(key, str(fleet.names[slot]))
                self._rents.pop(node, None)
        return list(found.values())
