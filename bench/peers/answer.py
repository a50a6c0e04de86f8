"""What a benchmark's client notes of one request, and what it can put requests to."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """`first` and `end` are when the first token and the end were there, on `time.perf_counter`; the rest is counts."""

    first: float
    end: float
    prompt_tokens: int
    cached_tokens: int


class Target(Protocol):
    """Something that serves requests."""

    @property
    def routers(self) -> list[int]:
        """Process ids of what routes, where that is not this process."""

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers."""

    def prepare(self, tokens: bytes, max_tokens: int) -> Any:
        """Return the request that `ask` takes, made beforehand from a packed prompt."""

    async def ask(self, request: Any) -> Answer:
        """Put a request and read all of its answer."""
