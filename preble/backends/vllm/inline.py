"""vLLM without processes of its own: `LLMEngine`, stepped by one thread, with the methods of `AsyncLLM`."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

_Call = Callable[[], None]


class InlineLLM:
    """One thread makes the engine, takes calls from a queue, and steps while there is work. No other thread uses it.

    If a step raises, the engine is dead: every stream and every later call raises EngineDeadError.
    """

    def __init__(self, config: Any, recorder: Any) -> None:
        self._config = config
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._streams: dict[str, asyncio.Queue[Any]] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="preble-vllm", daemon=True)
        self._engine: Any = None

    @property
    def errored(self) -> bool:
        """True after a step has failed."""
        return self._error is not None

    async def start(self) -> None:
        """Load the model. Raises what vLLM raises."""
        self._thread.start()
        await self._call(self._make)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, *, priority: int = 0
    ) -> AsyncGenerator[Any, None]:
        """Yield RequestOutputs until one is finished. Closing the generator aborts the request."""
        stream: asyncio.Queue[Any] = asyncio.Queue()
        self._streams[request_id] = stream
        finished = False
        try:
            await self._call(lambda: self._engine.add_request(request_id, prompt, sampling_params, priority=priority))
            while not finished:
                output = await stream.get()
                if output is None:
                    raise EngineDeadError from self._error
                finished = output.finished
                yield output
        finally:
            if self._streams.get(request_id) is stream:
                del self._streams[request_id]
            if not finished:
                self._enqueue(lambda: self._engine.abort_request([request_id]))

    async def abort(self, request_id: str) -> None:
        """End a request. Its stream gets finish reason "abort" from here, since `LLMEngine` does not send one."""
        await self._call(lambda: self._engine.abort_request([request_id]))
        self._deliver([_aborted(request_id)])

    async def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        """Forget the cache; False if requests use it."""
        done: bool = await self._call(lambda: self._engine.reset_prefix_cache(reset_running_requests))
        return done

    def shutdown(self) -> None:
        """End the thread and free the model, waiting for both. Streams that are open get nothing more."""
        self._calls.put(None)
        if self._thread.is_alive():
            self._thread.join()

    async def _call(self, function: Callable[[], Any]) -> Any:
        if self._error is not None:
            raise EngineDeadError from self._error
        result: asyncio.Future[Any] = self._loop.create_future()
        self._enqueue(lambda: self._resolve_with(result, function))
        return await result

    def _enqueue(self, call: _Call) -> None:
        self._calls.put(call)

    def _resolve_with(self, result: asyncio.Future[Any], function: Callable[[], Any]) -> None:
        try:
            value = function()
        except Exception as error:
            self._call_soon(_resolve, result, None, error)
        else:
            self._call_soon(_resolve, result, value, None)

    def _make(self) -> None:
        self._engine = LLMEngine(
            vllm_config=self._config,
            executor_class=Executor.get_class(self._config),
            log_stats=True,
            stat_loggers=[lambda *_: self._recorder],
        )

    def _run(self) -> None:
        try:
            while self._take_calls():
                if self._busy():
                    self._call_soon(self._deliver, self._engine.step())
        except Exception as error:
            self._error = error
            self._call_soon(self._die)
        if self._engine is not None:
            self._engine.engine_core.shutdown()

    def _busy(self) -> bool:
        return self._engine is not None and self._engine.has_unfinished_requests()

    def _take_calls(self) -> bool:
        """Make the calls that wait, and wait for one if there is nothing to step. Return False at the end."""
        while not self._calls.empty() or not self._busy():
            call = self._calls.get()
            if call is None:
                return False
            call()
        return True

    def _call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _deliver(self, outputs: list[Any]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.put_nowait(output)

    def _die(self) -> None:
        for stream in self._streams.values():
            stream.put_nowait(None)


def _aborted(request_id: str) -> Any:
    completion = CompletionOutput(0, "", [], None, None, finish_reason="abort")
    return RequestOutput(request_id, None, None, None, [completion], finished=True)


def _resolve(result: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if result.done():
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)
