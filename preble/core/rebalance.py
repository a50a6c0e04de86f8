"""Moves of waiting requests to workers that start them sooner: the paper's load shift (section 3.2)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from preble.core.fleet import Fleet, queue_delay
from preble.core.policy import Query

RELIEF = 2.0
"""How many times sooner the request must start elsewhere: a move has to be worth the disturbance."""


class Move(msgspec.Struct, frozen=True):
    """Take request `id` from worker `source`; `target` would start it much sooner."""

    id: Hashable
    source: str
    target: str


class _Queued(Protocol):
    """What `moves` reads of a request that waits."""

    id: Hashable
    slot: int
    prefill: float
    namespace: str
    overtakable: bool


def moves(queued: Sequence[tuple[_Queued, Query]], fleet: Fleet) -> list[Move]:
    """Return the moves that are worth it. Changes nothing.

    A move is worth it if `RELIEF * (wait + prefill on the target) < wait + prefill here`, with the prefill of its
    tokens uncached there. The newest requests are considered first: where nobody is overtaken they wait longest.
    `queued` has the waiting requests in the order of submission, each with its query. Each move counts at once in the
    waits by which the next one is judged.
    """
    found = []
    rows = np.array([fleet.pending, fleet.waiting, fleet.overtakable])
    pending, waiting, overtakable = rows
    for request, query in reversed(queued):
        source, seconds = request.slot, request.prefill
        own = np.array([seconds, 1.0, seconds * request.overtakable])
        others = rows[:, source] - own
        here = queue_delay(others[0], others[1], others[2], seconds) + seconds
        prefill = fleet.work_seconds(query.cached, query.length)
        there = queue_delay(pending, waiting, overtakable, prefill) + prefill + fleet.surcharge(request.namespace)
        there[source] = np.inf  # or it would wait for itself
        target = int(there.argmin())
        if RELIEF * there[target] < here:
            rows[:, source] -= own
            rows[:, target] += prefill[target], 1.0, prefill[target] * fleet.slots[target].short_first
            found.append(Move(request.id, str(fleet.names[source]), str(fleet.names[target])))
    return found
