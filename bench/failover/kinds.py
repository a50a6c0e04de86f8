"""How one of three is bad: a replica behind a URL, or a worker process."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

BREAK_AFTER = 5
"""Tokens of a stream before it breaks."""
BAD_AFTER = 30
"""Requests that a worker process gets before it hangs, dies or fails in every step."""
STALL_AT = 2.0
"""Seconds after its start when a worker process stands still."""


class ReplicaFault(msgspec.Struct, frozen=True):
    """What a replica does to every completion; by default it serves it.

    It answers `status` at once, with `retry_after` seconds; or accepts and never answers (`hangs`); or closes the
    connection after so many events with tokens. `late_health` is what /health takes, in seconds.
    """

    status: int = 200
    retry_after: int | None = None
    hangs: bool = False
    break_after: int | None = None
    late_health: float = 0.0


class EngineFault(msgspec.Struct, frozen=True):
    """What is wrong with an engine; by default nothing.

    `options` are those of the `sim` engine that make it hang, stall or crash. With `error` every request fails after
    so many tokens (`tokens`), as full or as broken. After `steps_fail_after` requests every step raises.
    """

    options: dict[str, Any] = {}
    error: Literal["full", "broken"] | None = None
    tokens: int = 0
    steps_fail_after: int | None = None


HEALTHY = "none: all healthy"
TWO = "drained: two healthy ones"
"""The best that can be had with one that serves nothing: the first takes no requests, and the others know."""
REPLICAS = {
    HEALTHY: ReplicaFault(),
    TWO: ReplicaFault(),
    "answers 500": ReplicaFault(status=500),
    "full: 429": ReplicaFault(status=429),
    "full: 429, Retry-After 1 s": ReplicaFault(status=429, retry_after=1),
    "full: 503": ReplicaFault(status=503),
    "accepts, never answers": ReplicaFault(hangs=True),
    "breaks every stream": ReplicaFault(break_after=BREAK_AFTER),
    "serves, /health late": ReplicaFault(late_health=2.0),
}
WORKERS = {
    HEALTHY: EngineFault(),
    TWO: EngineFault(),
    "fails every request": EngineFault(error="broken"),
    "full": EngineFault(error="full"),
    "hangs": EngineFault({"hang_after": BAD_AFTER}),
    "breaks every stream": EngineFault(error="broken", tokens=BREAK_AFTER),
    "every step raises": EngineFault(steps_fail_after=BAD_AFTER),
    "crashes": EngineFault({"crash_after": BAD_AFTER}),
    "stands still for 3 s": EngineFault({"stall": (STALL_AT, 3.0)}),
}
