"""Copies of hot prefixes, made in the background (the paper's prefix autoscaling of section 3.2, by live prices)."""

from __future__ import annotations

from preble.core.copies import Copy
from preble.core.fleet import Fleet
from preble.core.policies.e2.prefill_weight import PrefillWeight
from preble.tokens import TOKEN_BYTES
from preble.tree import RadixTree
from preble.tree.namespaces import negative

HALF_LIFE = 60.0
"""Seconds after which what was paid counts half."""
LEAST = 64
"""Tokens below which a prefix is not worth a copy."""
_PREFIXES = 4096
_NOTHING = (0, 0.0, 0.0)


class Rents:
    """Rent or buy, for every prefix: a request sent to a loaded holder pays the load that it could have avoided.

    When the requests of a prefix have paid the price of a miss, for computing it on the least loaded worker, a copy is
    made there, if there is room for it that nobody uses. The break-even rule of ski rental: whatever comes later,
    the cost is within a constant factor of the least. Kept by tree node, for the latest 4096 prefixes; those of a
    namespace or a tenant are left alone.
    """

    def __init__(self) -> None:
        # By node: the depth where the prefix ends, which says whether the node is still its; seconds paid, and when.
        # Tuples of numbers, since the garbage collector does not visit those.
        self._rents: dict[int, tuple[int, float, float]] = {}
        self._due: set[int] = set()

    def pay(self, node: int, depth: int, seconds: float, price: float, now: float) -> None:
        """A request that found the prefix of `depth` tokens, down to `node`, could have avoided `seconds`.

        At `price`, in seconds too, a copy is due.
        """
        paid = self._paid(node, depth, now) + seconds
        if node not in self._rents and len(self._rents) >= _PREFIXES:
            del self._rents[next(iter(self._rents))]
        self._rents[node] = depth, paid, now
        if paid > price:
            self._due.add(node)

    def due(self, tree: RadixTree, fleet: Fleet, weight: PrefillWeight, now: float) -> list[Copy]:
        """Return the copies to make now, at most one for a worker, and begin to count anew for what they hold.

        Seconds of computing count as `weight` says.
        """
        due, self._due = sorted(self._due), set()
        found: dict[int, Copy] = {}
        for node in due:
            slot, key = int((fleet.load + fleet.closed("")).argmin()), tree.path(node)
            length = len(key) // TOKEN_BYTES
            if slot in found or not key or negative(key):
                continue
            uncached = length - tree.match(key).length(slot)
            price = weight.on(fleet.requests.item(slot)) * fleet.slots[slot].work_seconds(uncached, length)
            if LEAST <= uncached <= fleet.free[slot] and self._paid(node, length, now) > price:
                found[slot] = Copy(key, str(fleet.names[slot]))
                del self._rents[node]
        return list(found.values())

    def _paid(self, node: int, depth: int, now: float) -> float:
        """What was paid for that prefix and has not faded."""
        known, seconds, at = self._rents.get(node, _NOTHING)
        return seconds * 0.5 ** ((now - at) / HALF_LIFE) if known == depth else 0.0
