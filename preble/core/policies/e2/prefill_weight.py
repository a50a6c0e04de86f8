"""w of E2: how many times a second of prefill counts on a worker, since it takes capacity from others."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from preble.core.arrays import Floats

Requests = TypeVar("Requests", float, Floats)


class PrefillWeight(msgspec.Struct, frozen=True, gc=False):
    """`w = base + if_busy * (requests > 0) + per_request * requests`, for a worker with `requests` in flight."""

    base: float
    if_busy: float
    per_request: float

    def on(self, requests: Requests) -> Requests:
        """The weight on a worker with so many requests in flight, or by slot."""
        return self.base + self.if_busy * (requests > 0) + self.per_request * requests
