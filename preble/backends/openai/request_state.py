"""The state of one request on a replica: its output so far over all attempts, and whether it was aborted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import msgspec

from preble.backends import Delta, EngineRequest
from preble.errors import EngineError
from preble.tokens import TOKEN_BYTES

_Result = TypeVar("_Result")


class AbortedError(EngineError):
    """The request was aborted. Raised where the request waits; no user sees it."""


class RequestState:
    """A request over several attempts. `finished` is True when a delta with a finish reason has come."""

    def __init__(self, request: EngineRequest) -> None:
        self.finished = False
        self._request = request
        self._output = bytearray()
        self._counted = self._prompt_told = False
        self._before = 0
        self._aborted = False
        self._scope: asyncio.Timeout | None = None

    @property
    def exhausted(self) -> bool:
        """True if `max_tokens` tokens were generated, though the finish reason may be missing."""
        return len(self._output) // TOKEN_BYTES >= self._request.sampling.token_limit

    def remaining(self) -> EngineRequest:
        """Return the request for the next attempt: the output so far is part of its prompt."""
        if not self._output:
            return self._request
        self._before = len(self._output) // TOKEN_BYTES
        done, sampling = len(self._output) // TOKEN_BYTES, self._request.sampling
        left = msgspec.structs.replace(
            sampling,
            max_tokens=sampling.token_limit - done,
            min_tokens=max(0, sampling.min_tokens - done),
            prompt_logprobs=None if self._prompt_told else sampling.prompt_logprobs,
        )
        tokens = self._request.tokens + bytes(self._output)
        return msgspec.structs.replace(self._request, tokens=tokens, sampling=left)

    def record(self, delta: Delta) -> Delta:
        """Add a delta to the output and return it.

        Only the first count of cached tokens stays in it: a later attempt finds the output of earlier ones cached. A
        count of output tokens becomes one over all attempts.
        """
        self._output += delta.tokens
        self.finished = delta.finish_reason is not None
        if delta.output_tokens is not None:
            delta.output_tokens += self._before
        if self._before:
            delta.prompt_tokens = None  # it counts the output of earlier attempts
        if self._counted:
            delta.cached_tokens = None
        self._prompt_told = self._prompt_told or delta.prompt_logprobs is not None
        self._counted = self._counted or delta.cached_tokens is not None
        return delta

    def abort(self) -> None:
        """Make the present or next `unless_aborted` raise AbortedError."""
        again, self._aborted = self._aborted, True
        if self._scope is not None and not again:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def unless_aborted(self, waited: Awaitable[_Result]) -> _Result:
        """Return the result of `waited`. Raises AbortedError if the request is aborted meanwhile, or was before."""
        try:
            async with asyncio.timeout(0.0 if self._aborted else None) as self._scope:
                return await waited
        except TimeoutError:
            if not self._aborted:
                raise
            raise AbortedError("aborted") from None
        finally:
            self._scope = None
