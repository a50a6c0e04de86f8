"""One request on its way: what it has generated so far, and how it is aborted."""

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
    """The request was aborted; raised where it waits, and not seen outside."""


class RequestState:
    """What outlives an attempt: the request, its output, and whether it is over."""

    def __init__(self, request: EngineRequest) -> None:
        self.finished = False
        self._request = request
        self._output = bytearray()
        self._counted = False
        self._aborted = False
        self._scope: asyncio.Timeout | None = None

    @property
    def exhausted(self) -> bool:
        """Whether all tokens were generated, though no finish reason came."""
        return len(self._output) // TOKEN_BYTES >= self._request.sampling.max_tokens

    def rest(self) -> EngineRequest:
        """Return what is still to be done: the output so far is prompt now."""
        if not self._output:
            return self._request
        done, sampling = len(self._output) // TOKEN_BYTES, self._request.sampling
        left = msgspec.structs.replace(
            sampling, max_tokens=sampling.max_tokens - done, min_tokens=max(0, sampling.min_tokens - done)
        )
        tokens = self._request.tokens + bytes(self._output)
        return msgspec.structs.replace(self._request, tokens=tokens, sampling=left)

    def record(self, delta: Delta) -> Delta:
        """Note what came, and return it; cached tokens only the first time, later attempts find their own."""
        self._output += delta.tokens
        self.finished = delta.finish_reason is not None
        if self._counted:
            delta.cached_tokens = None
        self._counted = self._counted or delta.cached_tokens is not None
        return delta

    def abort(self) -> None:
        """Let the request end where it waits."""
        again, self._aborted = self._aborted, True
        if self._scope is not None and not again:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def unless_aborted(self, waited: Awaitable[_Result]) -> _Result:
        """Return what `waited` gives. Raises AbortedError if the request is aborted meanwhile, or was before."""
        try:
            async with asyncio.timeout(0.0 if self._aborted else None) as self._scope:
                return await waited
        except TimeoutError:
            if not self._aborted:
                raise
            raise AbortedError("aborted") from None
        finally:
            self._scope = None
