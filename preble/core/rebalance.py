"""Corrections after the fact: the paper's load shift (section 3.2), on requests that still wait."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from preble.core.fleet import Fleet, queue_delay
from preble.core.policy import Query

RELIEF = 2.0
"""A move must start the request this many times sooner than staying; it has to pay for the disturbance."""


class Move(msgspec.Struct, frozen=True):
    """Take request `id` from worker `source`; `target` would start it much sooner."""

    id: Hashable
    source: str
    target: str


class _Queued(Protocol):
    """A request that waits on a slot: what `moves` reads of it."""

    id: Hashable
    slot: int
    prefill: float
    namespace: str
    overtakable: bool


def moves(queued: Sequence[tuple[_Queued, Query]], fleet: Fleet) -> list[Move]:
    """Return worthwhile moves; the newest requests are considered first, which wait longest where nobody is passed.

    `queued` is in order of submission, each request with what a policy is asked about it. Changes nothing. Each move
    counts at once in the waits that the next one is judged by.
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
        there = queue_delay(pending, waiting, overtakable, prefill) + prefill + fleet.closed(request.namespace)
        there[source] = np.inf  # it would find itself there
        target = int(there.argmin())
        if RELIEF * there[target] < here:
            rows[:, source] -= own
            rows[:, target] += prefill[target], 1.0, prefill[target] * fleet.slots[target].short_first
            found.append(Move(request.id, str(fleet.names[source]), str(fleet.names[target])))
    return found
