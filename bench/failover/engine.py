"""The `sim` engine, made bad: `backend="bench.failover.engine:FaultyEngine"`."""

from __future__ import annotations

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


class FaultyEngine:
    """A `sim` engine with a `fault`, the fields of an EngineFault; `options` are the `sim` engine's.

    It appends a byte to the file `received` for each request that it gets, but for copies of prefixes, which the
    cluster makes of its own accord.
    """

    def __init__(self, *, received: str, fault: dict[str, Any], model: str | None = None, **options: Any) -> None:
        self._received = Path(received)
        self._received.touch()
        self._fault = msgspec.convert(fault, EngineFault)
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


def fleet_options(folder: Path, fault: EngineFault, count: int, **options: Any) -> list[dict[str, Any]]:
    """Return the options of so many engines, of which the first has the fault; they count in files of the folder."""
    faults = [fault, *[EngineFault()] * (count - 1)]
    return [
        {**options, "received": str(folder / str(number)), "fault": msgspec.to_builtins(each)}
        for number, each in enumerate(faults)
    ]


def received(folder: Path) -> list[int]:
    """Return how many requests each engine of `fleet_options` got so far."""
    files = sorted(folder.iterdir(), key=lambda file: int(file.name))
    return [file.stat().st_size for file in files]
