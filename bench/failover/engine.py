"""The `sim` engine, of which one of a cluster's is bad: `backend="bench.failover.engine:FaultyEngine"`."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from bench.failover.kinds import EngineFault
from preble.backends import Delta, EngineRequest
from preble.backends.batching import SampledToken, TokenSpan
from preble.backends.sim import SimEngine
from preble.core.copies import COPY_PRIORITY
from preble.errors import EngineError, OverloadedError
from preble.tokens import TOKEN_BYTES

BAD = 0
"""The number of the engine that has the fault: the first that started."""


class FaultyEngine:
    """A `sim` engine; the first one that starts with this `folder` has the `fault`, the fields of an EngineFault.

    An engine appends a byte to a file of its own in the folder for each request that it gets, see `received`; copies of
    prefixes, which the cluster makes of its own accord, do not count.
    """

    def __init__(self, *, folder: str, fault: dict[str, Any], model: str | None = None, **options: Any) -> None:
        number, self._received = _claim(Path(folder))
        self._fault = msgspec.convert(fault, EngineFault) if number == BAD else EngineFault()
        self._requests = 0
        self._engine = SimEngine(model=model, **{**options, **self._fault.options})
        self._sample = self._engine.core.sample
        self._engine.core.sample = self._sampled  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """Yield deltas as the `sim` engine does, until the fault says otherwise."""
        self._requests += 1
        if request.priority != COPY_PRIORITY:
            with self._received.open("ab") as file:
                file.write(b".")
        left = self._fault.tokens
        if self._fault.error and not left:
            raise self._error()
        async with aclosing(self._engine.generate(request)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                yield delta
                left -= len(delta.tokens) // TOKEN_BYTES
                if self._fault.error and left <= 0:
                    raise self._error()

    def _error(self) -> Exception:
        return OverloadedError("full") if self._fault.error == "full" else EngineError("out of order")

    def _sampled(self, spans: list[TokenSpan]) -> list[SampledToken]:
        limit = self._fault.steps_fail_after
        if limit is not None and self._requests >= limit:
            raise RuntimeError("out of order")
        return self._sample(spans)


def received(folder: Path) -> list[int]:
    """Return how many requests each engine got so far, in the order of their start."""
    files = itertools.takewhile(Path.exists, map(folder.joinpath, map(str, itertools.count())))
    return [file.stat().st_size for file in files]


def _claim(folder: Path) -> tuple[int, Path]:
    """Return the first number that no other engine has taken, and its file."""
    for number in itertools.count():
        try:
            file = folder / str(number)
            file.touch(exist_ok=False)
        except FileExistsError:
            continue
        return number, file
    raise AssertionError
