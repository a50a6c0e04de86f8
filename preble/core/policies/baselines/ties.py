"""How equals are told apart: whoever always takes the first makes an unlucky tie permanent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from preble.core.fleet import Fleet


def least(slots: Sequence[int], costs: Sequence[float], fleet: Fleet) -> int:
    """The slot of least cost, exact ties drawn uniformly; `costs` has an entry per entry of `slots`."""
    best = min(costs)
    tied = [slot for slot, cost in zip(slots, costs, strict=True) if cost == best]
    return tied[0] if len(tied) == 1 else fleet.random.choice(tied)


def fewest(slots: Sequence[int], fleet: Fleet) -> int:
    """The one of `slots` with the fewest requests in flight, ties drawn uniformly."""
    return least(slots, fleet.requests[slots].tolist(), fleet)


def fewest_ever(fleet: Fleet, routed: Mapping[int, int]) -> int:
    """The live slot with the fewest requests in flight, then ever `routed` there, then the lowest."""
    requests = fleet.requests.tolist()
    return min(fleet.live, key=lambda slot: (requests[slot], routed.get(slot, 0), slot))
