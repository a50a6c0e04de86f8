"""A request in the scheduler's books."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

from preble.core.policy import Query

RequestId: TypeAlias = Hashable

NOWHERE = -1
"""The slot of a request whose worker was removed."""


class Request:
    """A submitted request: packed `tokens`, its `slot`, the tree `node` where its prompt ends, what is charged for it.

    `cached` is what was believed cached there when it was placed, and what the engine really found once it `counted`.
    `prefill` and `decode` are outstanding seconds, `uncached` outstanding prompt tokens, until the prefill `computed`.
    While it waits, shorter ones may pass it if it is `overtakable`.
    """

    __slots__ = (
        "cached", "computed", "counted", "decode", "id", "length", "max_tokens", "namespace", "node", "overtakable",
        "prefill", "priority", "session", "slot", "started", "submitted_at", "tokens", "uncached",
    )  # fmt: skip

    def __init__(self, id: RequestId, tokens: bytes, query: Query, slot: int, node: int, now: float) -> None:
        self.id = id
        self.tokens = tokens
        self.length = query.length
        self.max_tokens = query.max_tokens
        self.session = query.session
        self.priority = query.priority
        self.namespace = query.namespace
        self.slot = slot
        self.node = node
        self.submitted_at = now
        self.cached = query.believed.on(slot)
        self.uncached = 0
        self.prefill = 0.0
        self.decode = 0.0
        self.started = False
        self.overtakable = False
        self.counted = False
        self.computed = False
