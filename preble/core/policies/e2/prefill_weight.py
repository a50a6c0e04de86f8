"""How many times a second of prefill counts where it takes capacity from others, by the requests a worker has."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from preble.core.cached import Floats

Requests = TypeVar("Requests", float, Floats)


class Weight(msgspec.Struct, frozen=True, gc=False):
    """`alone` times on an idle worker, `busy` more on one with requests, and `beside` more for each of these."""

    alone: float
    busy: float
    beside: float

    def on(self, requests: Requests) -> Requests:
        """The weight on a worker with so many requests in flight, or by slot."""
        return self.alone + self.busy * (requests > 0) + self.beside * requests
