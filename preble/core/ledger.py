"""The ledger: a worker's outstanding seconds are the sum of what its requests in flight still have to compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preble.core.fleet import Fleet
from preble.core.request import Request


def enter(fleet: Fleet, request: Request) -> float:
    """Charge a request to its slot; return the predicted seconds to its first token."""
    slot, length = request.slot, request.length
    worker = fleet.slots[slot]
    waits: float = fleet.pending.item(slot)
    waits -= fleet.overtaken(slot, worker.work_seconds(length - request.cached, length))
    request.overtakable = worker.short_first and fleet.requests.item(slot) > 0  # on an idle worker it starts at once
    request.decode = worker.decode_seconds(length, request.max_tokens)
    fleet.enter(slot, request.decode)
    charge(fleet, request)
    fleet.saw_prompt(slot, request.cached / length)
    return waits + worker.chunked_seconds(request.uncached, length)


def charge(fleet: Fleet, request: Request) -> None:
    """Charge the prefill of the uncached tokens."""
    slot, length = request.slot, request.length
    request.uncached = length - request.cached
    request.prefill = fleet.slots[slot].work_seconds(request.uncached, length)
    fleet.charge(slot, request.uncached, request.prefill, overtakable=request.overtakable and not request.started)


def release(fleet: Fleet, request: Request) -> None:
    """Take back what `charge` charged."""
    overtakable = request.overtakable and not request.started
    fleet.charge(request.slot, -request.uncached, -request.prefill, overtakable=overtakable)
    request.uncached, request.prefill = 0, 0.0


def begin(fleet: Fleet, request: Request) -> None:
    """Count the request as started: it has left the wait queue."""
    if not request.started:
        request.started = True
        fleet.begin(request.slot, request.prefill if request.overtakable else 0.0)


def leave(fleet: Fleet, request: Request) -> None:
    """The request has left its slot: take back all that it was charged."""
    if not request.computed:
        release(fleet, request)
    fleet.leave(request.slot, request.decode, waited=not request.started)


def outstanding(requests: Sequence[Request]) -> float:
    """Return the seconds that the requests still have to compute."""
    return sum(request.prefill + request.decode for request in requests)


def check(fleet: Fleet, slot: int, here: Sequence[Request]) -> None:
    """Raise AssertionError unless a slot is charged for exactly what the requests there still have to compute."""
    pending = sum(request.prefill for request in here) + fleet.idle_load(slot)
    waiting = [request for request in here if not request.started]
    overtakable = sum(request.prefill for request in waiting if request.overtakable)
    assert fleet.requests[slot] == len(here), f"slot {slot}: request count"
    assert fleet.waiting[slot] == len(waiting), f"slot {slot}: waiting"
    assert fleet.uncached[slot] == sum(request.uncached for request in here), f"slot {slot}: uncached"
    for name, seconds, of_them in (
        ("pending prefill", fleet.pending[slot], pending),
        ("overtakable", fleet.overtakable[slot], overtakable),
        ("load", fleet.load[slot], outstanding(here) + fleet.idle_load(slot)),
    ):
        assert np.isclose(seconds, of_them, atol=1e-6), f"slot {slot}: {name}"
