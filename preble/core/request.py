"""A request in flight, as the scheduler keeps it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

from preble.core.policy import Query

RequestId: TypeAlias = Hashable

NOWHERE = -1
"""The slot of a request whose worker was removed."""


class Request:
    """A submitted request: its packed `tokens`, its `slot`, and the tree `node` where its prompt ends.

    `cached` is how many of its tokens were believed cached when it was placed; once the engine has `counted` them, it
    is what the engine found. `prefill` and `decode` are the seconds that it is charged for, `uncached` its prompt
    tokens to compute; `prefill` and `uncached` are 0 once the prompt is `computed`. Until it has `started` it waits,
    and if it is `overtakable`, shorter requests may go before it.
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
