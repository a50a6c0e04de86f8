"""Engines that break when a test says so, in the event loop of their cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from importlib import import_module
from typing import Any, TypeVar, cast

from preble.backends import Delta, Engine, EngineInfo, EngineRequest, Evicted, Load, StepTiming, find_backend
from preble.errors import EngineDeadError, EngineError

_Result = TypeVar("_Result")


class Faults:
    """What is wrong with each worker of a cluster.

    `around` gives the cluster engines that obey it. The other methods are for its event loop, and raise KeyError for a
    worker that is not there.
    """

    def __init__(self) -> None:
        self._engines: dict[str, FaultyEngine] = {}

    def around(self, backend: str | Callable[..., Engine]) -> Callable[..., Engine]:
        """Return what makes the engines of this backend, for `PrebleCluster(backend=..., processes=False)`."""
        make = _engine_class(backend) if isinstance(backend, str) else backend

        def engine(**options: Any) -> FaultyEngine:
            made = FaultyEngine(make(**options))
            self._engines[_worker()] = made
            return made

        return engine

    def kill(self, worker: str) -> None:
        """Let an engine die: its worker is lost, as a process that was killed."""
        self._engines[worker].died.set()

    def stop(self, worker: str) -> None:
        """Let an engine say nothing more, until it is healed."""
        self._engines[worker].going.clear()

    def slow(self, worker: str, seconds: float) -> None:
        """Let an engine wait for so many seconds before each delta."""
        self._engines[worker].delay = seconds

    def refuse(self, worker: str) -> None:
        """Let an engine fail each new request."""
        self._engines[worker].refuses = True

    def heal(self) -> None:
        """End all of this but death."""
        for engine in self._engines.values():
            engine.delay, engine.refuses = 0.0, False
            engine.going.set()


class FaultyEngine:
    """An engine, and what is wrong with it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.died = asyncio.Event()
        self.going = asyncio.Event()
        self.going.set()
        self.delay = 0.0
        self.refuses = False

    async def start(self) -> EngineInfo:
        """As the engine's."""
        return await self._engine.start()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """As the engine's, if nothing is wrong. Raises EngineError if it refuses, EngineDeadError once it has died."""
        if self.refuses:
            raise EngineError("told to refuse requests")
        stream = cast("AsyncGenerator[Delta, None]", self._engine.generate(request))
        async with aclosing(stream):
            while True:
                delta = await self._alive(self._next(stream))
                yield delta
                if delta.finish_reason is not None:
                    return

    def abort(self, id: int) -> None:
        """As the engine's."""
        self._engine.abort(id)

    def cache_events(self) -> list[Evicted]:
        """As the engine's."""
        return self._engine.cache_events()

    def timings(self) -> list[StepTiming]:
        """As the engine's, if it has any."""
        tell = getattr(self._engine, "timings", None)
        return [] if tell is None else tell()

    def load(self) -> Load:
        """As the engine's. Raises EngineDeadError once it has died."""
        if self.died.is_set():
            raise EngineDeadError("told to die")
        return self._engine.load()

    async def reset_cache(self) -> None:
        """As the engine's."""
        await self._engine.reset_cache()

    async def close(self) -> None:
        """As the engine's."""
        await self._engine.close()

    async def _next(self, stream: AsyncGenerator[Delta, None]) -> Delta:
        if self.delay:
            await asyncio.sleep(self.delay)
        delta = await anext(stream)
        await self.going.wait()
        return delta

    async def _alive(self, next: Coroutine[Any, Any, _Result]) -> _Result:
        """Wait for the next delta, unless the engine dies before."""
        both = [asyncio.ensure_future(next), asyncio.ensure_future(self.died.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self.died.is_set():
                raise EngineDeadError("told to die")
            return cast(_Result, both[0].result())
        finally:
            for each in both:
                each.cancel()
            await asyncio.wait(both)


def _engine_class(backend: str) -> Callable[..., Engine]:
    module, _, name = find_backend(backend).path.partition(":")
    return cast("Callable[..., Engine]", getattr(import_module(module), name))


def _worker() -> str:
    """The worker for which an engine is made: it is made in the task that has the worker's name."""
    task = asyncio.current_task()
    return "" if task is None else task.get_name().removeprefix("preble-worker-")
