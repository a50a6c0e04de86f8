"""The state of one request on a replica: how much of it has come, and when, and whether it was aborted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from preble.backends import Delta
from preble.errors import EngineError, UnreachableError
from preble.tokens import TOKEN_BYTES

_Result = TypeVar("_Result")


class AbortedError(EngineError):
    """The request was aborted. Raised where the request waits; no user sees it."""


class RequestState:
    """A request on a replica. `finished` is True when a delta with a finish reason has come.

    It asked for `limit` tokens and gets at most `most`, which are more where the tokens are made of text. It may be
    without a token for `idle_timeout` seconds, beginning now. Make it inside a running event loop.
    """

    def __init__(self, *, limit: int, most: int, idle_timeout: float) -> None:
        self.finished = False
        self._limit = limit
        self._most = most
        self._idle_timeout = idle_timeout
        self._tokens = 0
        self._admitted = False
        self._aborted = False
        self._clock = asyncio.get_running_loop().time
        self._heard = self._clock()
        self._scope: asyncio.Timeout | None = None

    @property
    def exhausted(self) -> bool:
        """True if all tokens that were asked for have come, though the finish reason may be missing."""
        return self._tokens >= self._limit

    def record(self, delta: Delta) -> Delta:
        """Count a delta and return it, cut where the request has got enough."""
        count = len(delta.tokens) // TOKEN_BYTES
        self._tokens += count
        if (excess := self._tokens - self._most) > 0:
            delta = _cut(delta, count - excess)
        if delta.tokens or (delta.admitted and not self._admitted):
            self._heard, self._admitted = self._clock(), True
        self.finished = delta.finish_reason is not None
        return delta

    def abort(self) -> None:
        """Make the present or next `arrival` raise AbortedError."""
        again, self._aborted = self._aborted, True
        if self._scope is not None and not again:
            self._scope.reschedule(self._clock())

    async def arrival(self, waited: Awaitable[_Result]) -> _Result:
        """Return the result of `waited`.

        Raises AbortedError if the request is aborted meanwhile, or was before, and UnreachableError if it has been
        without a token for too long.
        """
        try:
            async with asyncio.timeout_at(0.0 if self._aborted else self._heard + self._idle_timeout) as self._scope:
                return await waited
        except TimeoutError:
            if self._aborted:
                raise AbortedError("aborted") from None
            raise UnreachableError(f"no token within {self._idle_timeout:g} s") from None
        finally:
            self._scope = None


def _cut(delta: Delta, tokens: int) -> Delta:
    """The first tokens of a delta, as the last of a request."""
    logprobs = None if delta.logprobs is None else delta.logprobs[:tokens]
    return Delta(delta.tokens[: tokens * TOKEN_BYTES], delta.cached_tokens, "length", logprobs=logprobs)
