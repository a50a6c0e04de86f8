"""`SGLangEngine`: SGLang in the worker's own process, as preble's engines are spoken to."""

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

    `model` is what SGLang's `model_path` may be; `options` are the arguments of `sglang.Engine`, which checks them.
    `discipline` orders the queue in front of it. SGLang takes six tokens less than the model's context, and so does
    `EngineInfo.context_limit`. On a CPU, where the user says nothing else, the KV cache holds 32768 tokens.
    """

    def __init__(self, *, model: str | None = None, discipline: Discipline = DEFAULT, **options: Any) -> None:
        check_options(options)
        LocalScheduler(discipline)  # an unknown one is refused now, not after SGLang has started
        self._model = check_model(model, engine="sglang")
        self._discipline: Discipline = discipline
        self._options = options
        self._running: Running | None = None
        self._closed = False

    async def start(self) -> EngineInfo:
        """Start SGLang, which blocks the event loop for 10 seconds and more, and takes its SIGTERM handler.

        Raises ModelError or ConfigurationError with SGLang's own words.
        """
        await asyncio.sleep(0)  # what was said before goes out before
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

        Raises InvalidRequestError, also for what SGLang cannot do, and EngineError if it gives the request up.
        """
        return self._started().generate(request)

    def abort(self, id: int) -> None:
        """End a request: its iterator yields a last delta with finish reason "abort". Unknown ids are ignored."""
        self._started().abort(id)

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        return [] if self._closed else self._started().cache_events()

    def load(self) -> Load:
        """Return the present load; tokens in use are those that SGLang published last."""
        return Load(0, 0, 0) if self._closed else self._started().load()

    def timings(self) -> list[StepTiming]:
        """Return and forget the steps since the last call that SGLang's counters tell apart."""
        return self._started().timings()

    async def reset_cache(self) -> None:
        """Let the running requests end, holding back others, and forget all cached prefixes."""
        await self._started().reset_cache()

    async def close(self) -> None:
        """Abort everything and end SGLang. May be called twice."""
        running, self._running, self._closed = self._running, None, True
        if running is not None:
            running.close()

    def check(self) -> None:
        """Raise AssertionError if the queue or the books of what is held are wrong."""
        self._started().check()

    def _started(self) -> Running:
        if self._running is None:
            raise EngineError("the engine is closed") if self._closed else NotStartedError("the engine has not started")
        return self._running
