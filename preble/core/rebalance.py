"""Corrections after the fact: the paper's load shift (section 3.2), on requests that still wait."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from preble.core.fleet import Fleet
from preble.core.policy import Query

RELIEF = 2.0
"""A move must start the request this many times sooner than staying; it has to pay for the disturbance."""


class Move(msgspec.Struct, frozen=True):
    """Take request `id` from worker `source`; `target` would start it much sooner."""

    id: Hashable
    source: str
    target: str


class Queued(Protocol):
    """A request that waits on a slot: what `moves` reads of it."""

    id: Hashable
    slot: int
    prefill: float
    namespace: str


def moves(queued: Sequence[tuple[Queued, Query]], fleet: Fleet) -> list[Move]:
    """Return worthwhile moves; the newest requests are considered first, since they wait longest where they are.

    `queued` is in order of submission, each request with what a policy is asked about it. Changes nothing. Each move
    counts at once in the waits that the next one is judged by.
    """
    found = []
    pending = fleet.pending.copy()
    for request, query in reversed(queued):
        prefill = fleet.work_seconds(query.cached, query.length)
        target = int(np.argmin(pending + prefill + fleet.closed(request.namespace)))
        if target != request.slot and RELIEF * (pending[target] + prefill[target]) < pending[request.slot]:
            pending[request.slot] -= request.prefill
            pending[target] += prefill[target]
            found.append(Move(request.id, str(fleet.names[request.slot]), str(fleet.names[target])))
    return found
