"""`SGLangEngine`: SGLang in the worker's own process, as an `Engine`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load, StepTiming
from preble.backends.model_path import check_model
from preble.backends.sglang.options import check_options
from preble.backends.sglang.process import Process
from preble.backends.sglang.running import Running
from preble.errors import EngineError, NotStartedError
from preble.wait_queue.disciplines import DEFAULT, Discipline
from preble.wait_queue.local import LocalScheduler


class SGLangEngine:
    """Serves a model with SGLang, in this process and its children. The process must have no other children.

    `model` is SGLang's `model_path`, and `options` are the arguments of `sglang.Engine`, which checks them.
    `discipline` orders the wait queue in front of it. SGLang accepts six tokens less than the model's context, and so
    `EngineInfo.context_limit` is that much smaller. On a CPU the KV cache holds 32768 tokens by default.
    """

    def __init__(self, *, model: str | None = None, discipline: Discipline = DEFAULT, **options: Any) -> None:
        check_options(options)
        LocalScheduler(discipline)  # refuses an unknown one now, not after SGLang has started
        self._model = check_model(model, engine="sglang")
        self._discipline: Discipline = discipline
        self._options = options
        self._running: Running | None = None
        self._closed = False

    async def start(self) -> EngineInfo:
        """Start SGLang, which blocks the event loop for 10 seconds and more, and takes its SIGTERM handler.

        Raises ModelError or ConfigurationError with SGLang's own words.
        """
        await asyncio.sleep(0)  # sends first what waits to be sent
        process = Process(self._model, self._options)
        try:
            limits = await process.limits(self._model, self._discipline)
        except BaseException:
            process.close()
            raise
        self._running = Running(process, limits, self._discipline)
        return limits.info

    def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Yield deltas until one has a `finish_reason`. Closing the iterator aborts the request.

        Raises InvalidRequestError for a request that SGLang cannot serve, and EngineError if SGLang fails it.
        """
        return self._started().generate(request)

    def abort(self, id: int) -> None:
        """End a request: its iterator yields a last delta with finish reason "abort". Unknown ids are ignored."""
        self._started().abort(id)

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        return [] if self._closed else self._started().cache_events()

    def load(self) -> Load:
        """Return the present load; the number of tokens in use is the one that SGLang published last."""
        return Load(0, 0, 0) if self._closed else self._started().load()

    def timings(self) -> list[StepTiming]:
        """Return and forget the steps since the last call that can be told apart by SGLang's counters."""
        return self._started().timings()

    async def reset_cache(self) -> None:
        """Wait for the running requests to end, while no other is admitted, and forget all cached prefixes."""
        await self._started().reset_cache()

    async def close(self) -> None:
        """Abort everything and end SGLang. May be called twice."""
        running, self._running, self._closed = self._running, None, True
        if running is not None:
            running.close()

    def check(self) -> None:
        """Raise AssertionError if the queue, or the record of the cached blocks, is inconsistent."""
        self._started().check()

    def _started(self) -> Running:
        if self._running is None:
            raise EngineError("the engine is closed") if self._closed else NotStartedError("the engine has not started")
        return self._running
