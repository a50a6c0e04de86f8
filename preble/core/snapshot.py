"""The scheduler's state at one moment, for reading."""

from __future__ import annotations

import msgspec


class WorkerState(msgspec.Struct, frozen=True):
    """One worker as the scheduler sees it: outstanding seconds, requests in flight, KV tokens believed held.

    A worker that is drained does not have `accepts_requests`.
    """

    worker: str
    load: float
    requests: int
    held_tokens: int
    kv_tokens: int
    accepts_requests: bool = True


class Snapshot(msgspec.Struct, frozen=True):
    """The state at one moment. `tree_tokens` counts a stored token once, however many workers hold it."""

    workers: tuple[WorkerState, ...]
    requests: int
    tree_nodes: int
    tree_tokens: int
