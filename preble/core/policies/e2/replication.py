"""Copies of hot prefixes, made in the background (the paper's prefix autoscaling of section 3.2, by live prices)."""

from __future__ import annotations

from preble.core.copies import Copy
from preble.core.fleet import Fleet
from preble.core.policies.e2.prefill_weight import PrefillWeight
from preble.tokens import TOKEN_BYTES
from preble.tree import RadixTree
from preble.tree.namespaces import negative

HALF_LIFE = 60.0
"""Seconds after which avoidable seconds count half."""
LEAST = 64
"""Tokens below which a prefix is not worth a copy."""
_PREFIXES = 4096
_NOTHING = (0, 0.0, 0.0)


class AvoidableSeconds:
    """The seconds that requests could have avoided, by prefix, had the least loaded worker held their prefix too.

    Example: a prefix takes 0.5 s to compute, and w is 1. Three requests each wait 0.2 s longer at its holder than they
    would on the least loaded worker, without the prefix counted. After the third, 0.6 s were avoidable, more than a
    copy costs, so the prefix is copied to the worker that is least loaded then, if it has that much free cache.

    This is the break-even rule of ski rental (rent until the rent paid equals the price, then buy): whatever requests
    come, the cost is within a constant factor of the least possible. Sums lose half of their value in `HALF_LIFE`.
    They are kept by tree node, for the latest 4096 prefixes. Prefixes of a namespace or a tenant are not copied.
    """

    def __init__(self) -> None:
        # By node: the depth where the prefix ends, which says whether the node is still its; the seconds, and when.
        # Tuples of numbers, since the garbage collector does not visit those.
        self._sums: dict[int, tuple[int, float, float]] = {}
        self._worth_a_copy: set[int] = set()

    def add(self, node: int, depth: int, seconds: float, copy_seconds: float, now: float) -> None:
        """A request that found the prefix of `depth` tokens, down to `node`, could have avoided `seconds`.

        Once the sum exceeds `copy_seconds`, what computing the prefix once more costs, it is worth a copy.
        """
        total = self._total(node, depth, now) + seconds
        if node not in self._sums and len(self._sums) >= _PREFIXES:
            del self._sums[next(iter(self._sums))]
        self._sums[node] = depth, total, now
        if total > copy_seconds:
            self._worth_a_copy.add(node)

    def copies(self, tree: RadixTree, fleet: Fleet, weight: PrefillWeight, now: float) -> list[Copy]:
        """Return the copies to make now, at most one for a worker; the sums of their prefixes begin anew.

        Seconds of prefill count as often as `weight` says.
        """
        nodes, self._worth_a_copy = sorted(self._worth_a_copy), set()
        found: dict[int, Copy] = {}
        for node in nodes:
            slot, key = int((fleet.load + fleet.surcharge("")).argmin()), tree.path(node)
            length = len(key) // TOKEN_BYTES
            takes = fleet.slots[slot].accepts_requests and not fleet.slots[slot].paused
            if slot in found or not takes or length >= fleet.slots[slot].context_limit or not key or negative(key):
                continue
            uncached = length - tree.match(key).length(slot)
            copy_seconds = weight.on(fleet.requests.item(slot)) * fleet.slots[slot].work_seconds(uncached, length)
            if LEAST <= uncached <= fleet.free[slot] and self._total(node, length, now) > copy_seconds:
                found[slot] = Copy(key, str(fleet.names[slot]))
                del self._sums[node]
        return list(found.values())

    def _total(self, node: int, depth: int, now: float) -> float:
        """What is left of the avoidable seconds of that prefix."""
        known, seconds, at = self._sums.get(node, _NOTHING)
        return seconds * 0.5 ** ((now - at) / HALF_LIFE) if known == depth else 0.0
