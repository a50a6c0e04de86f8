"""`VllmEngine`: vLLM with its own batching and cache, and our wait queue in front of it."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Literal

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load, StepTiming
from preble.backends.admission import Admission
from preble.backends.block_events import HeldBlocks, decode
from preble.backends.checks import check_prompt
from preble.backends.event_feed import EventFeed
from preble.backends.model_path import check_model
from preble.backends.scratch import scratch_folder
from preble.backends.vllm.configuration import TOPIC, check_options, configure, describe
from preble.backends.vllm.environment import forget, prepare
from preble.backends.vllm.steps import Steps
from preble.errors import ConfigurationError, EngineDeadError, EngineError, InvalidRequestError, NotStartedError
from preble.tokens import TOKEN_BYTES, unpack
from preble.wait_queue.disciplines import DEFAULT, Discipline
from preble.wait_queue.local import LocalScheduler

Mode = Literal["async", "inline"]

_STEPS_AHEAD = 2


class VllmEngine:
    """Serves a model with vLLM.

    `model` is a folder or a name on the Hugging Face hub. `mode="async"` is vLLM's usual form, with its core in a
    process of its own. `mode="inline"` keeps everything in this process: it starts sooner and needs less memory, but
    its steps share the interpreter with the event loop. `discipline` orders the wait queue. All other options are those
    of vLLM's EngineArgs.
    """

    def __init__(
        self, *, model: str | None = None, discipline: Discipline = DEFAULT, mode: Mode = "async", **options: Any
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigurationError('backend "vllm": vLLM is not installed; pip install "preble[vllm]"')
        if mode not in ("async", "inline"):
            raise ConfigurationError(f"mode: must be async or inline, not {mode!r}")
        check_options(options)
        self._model = check_model(model, engine="vllm")
        self._discipline: Discipline = discipline
        self._mode = mode
        self._options = options
        self._folder: Path | None = None
        self._llm: Any = None
        self._feed: EventFeed | None = None
        self._info: EngineInfo | None = None
        self._aborts: set[asyncio.Task[None]] = set()
        self._steps = Steps()
        self._closed = False

    async def start(self) -> EngineInfo:
        """Load the model, in a thread. Raises ModelError, and ConfigurationError with vLLM's own message."""
        try:
            return await self._start()
        except BaseException:
            await self.close()  # an open socket would keep the process from ending
            raise

    async def _start(self) -> EngineInfo:
        folder = self._folder = scratch_folder()
        prepare(self._model, folder)
        config = await asyncio.to_thread(configure, self._model, self._options, folder)
        self._held = HeldBlocks(config.cache_config.block_size)
        self._feed = EventFeed(
            f"ipc://{folder}/events",
            replay=f"ipc://{folder}/replay",
            topic=TOPIC,
            take=lambda body: self._held.apply(decode(body)),
            lost=self._held.forget,
        )
        self._llm, self._last_step = await _launch(config, self._mode, self._steps)
        self._info = info = describe(config, self._discipline)
        self._admission = Admission(
            LocalScheduler(self._discipline, block_size=info.block_size),
            cached=self._held.match,
            refresh=self._drain,
            max_running=info.max_running,
            prefill_ahead=_STEPS_AHEAD * config.scheduler_config.max_num_batched_tokens,
        )
        return info

    async def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Yield deltas until one has a `finish_reason`. Closing the iterator aborts the request.

        Raises InvalidRequestError if the request can never run, EngineError if vLLM fails it, and EngineDeadError if
        vLLM has died.
        """
        if self._info is None:
            raise NotStartedError("the engine has not been started")
        if self._closed:
            raise EngineError("the engine is closed")
        if request.begun:
            raise EngineError("vLLM cannot go on with an output in a form that another worker has begun")
        info = self._info
        check_prompt(
            request.tokens, context_limit=info.context_limit, kv_tokens=info.kv_tokens, vocab_size=info.vocab_size
        )
        async with self._admission.enter(request) as inside:
            if inside:
                yield Delta(b"")
            if not self._admission.begin(request.id):
                yield Delta(b"", finish_reason="abort")
                return
            async with aclosing(self._inside(request)) as deltas:
                async for delta in deltas:
                    yield delta

    def abort(self, id: int) -> None:
        """End a request: its iterator yields a last delta with finish reason "abort". Unknown ids are ignored."""
        if self._info is None or id not in self._admission or self._admission.refuse(id):
            return
        task = asyncio.get_running_loop().create_task(self._llm.abort(str(id)))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order. Raises EngineDeadError for malformed ones."""
        if self._info is None or self._closed:
            return []
        self._drain()
        return self._held.evicted()

    def load(self) -> Load:
        """Return the load after vLLM's last step. Raises EngineDeadError if vLLM has died."""
        if self._info is None or self._closed:
            return Load(0, 0, 0)
        if self._llm.errored:
            raise EngineDeadError("vLLM's engine has died")
        inside, queued = self._admission.inside, self._admission.waiting
        if not inside:
            return Load(0, queued, 0)
        waiting = min(inside, self._last_step.waiting)
        return Load(inside - waiting, queued + waiting, round(self._last_step.used * self._info.kv_tokens))

    def timings(self) -> list[StepTiming]:
        """Return and forget the steps since the last call that vLLM's counts and our requests explain."""
        return self._steps.take()

    async def reset_cache(self) -> None:
        """Forget all cached prefixes. vLLM can only forget all at once, so running requests are computed again."""
        if self._info is None:
            raise NotStartedError("the engine has not been started")
        if not await self._llm.reset_prefix_cache():
            await self._llm.reset_prefix_cache(reset_running_requests=True)
        self._drain()
        self._held.forget()  # vLLM publishes the event only with its next step

    async def close(self) -> None:
        """Abort everything, end vLLM's processes and free the model. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._info is not None:
            self._admission.refuse_all()
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)
            self._llm = None
        if self._feed is not None:
            self._feed.close()
        if self._folder is not None:
            forget(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> None:
        """Raise AssertionError if the queue, or the record of the cached blocks, is inconsistent."""
        self._admission.check()
        self._held.check()

    def _drain(self) -> None:
        if self._feed is not None and not self._closed:
            self._feed.drain()

    async def _inside(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """Send an admitted request into vLLM and yield its deltas."""
        from preble.backends.vllm.requests import delta

        first = True
        self._steps.sent(request.id, len(request.tokens) // TOKEN_BYTES, time.monotonic())
        try:
            with _translated_errors():
                async with aclosing(self._outputs(request)) as outputs:
                    async for output in outputs:
                        if first:
                            self._admission.prefilled(request.id)
                        said = delta(output, request.sampling, first=first)
                        self._steps.came(request.id, len(said.tokens) // TOKEN_BYTES, said.cached_tokens)
                        yield said
                        first = False
        finally:
            self._steps.left(request.id)

    def _outputs(self, request: EngineRequest) -> Any:
        """Send a request into the engine; return its stream."""
        from vllm.inputs import tokens_input

        from preble.backends.vllm.requests import sampling_params

        prompt = tokens_input(list(unpack(request.tokens)), cache_salt=request.cache_salt or None)
        parameters = sampling_params(request.sampling)
        return self._llm.generate(prompt, parameters, str(request.id), priority=request.priority)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise vLLM's errors as InvalidRequestError, EngineError and EngineDeadError."""
    from vllm.exceptions import VLLMClientError
    from vllm.v1.engine import exceptions

    try:
        yield
    except VLLMClientError as error:
        raise InvalidRequestError(str(error), field=getattr(error, "parameter", None) or "sampling") from error
    except exceptions.EngineDeadError as error:
        raise EngineDeadError(f"vLLM: {error}") from error
    except exceptions.EngineGenerateError as error:
        raise EngineError(f"vLLM: {error}") from error


async def _launch(config: Any, mode: Mode, steps: Steps) -> tuple[Any, Any]:
    """Return the running engine and what records its last step. `steps` is told of every step."""
    from preble.backends.vllm.statistics import LastStep

    loop = asyncio.get_running_loop()

    def on_step(details: Any, idle: bool, now: float) -> None:
        steps.step(details, idle=idle, now=now)

    def from_thread(details: Any, idle: bool, now: float) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_step, details, idle, now)

    recorder = LastStep(from_thread if mode == "inline" else on_step)
    if mode == "inline":
        from preble.backends.vllm.inline import InlineLLM

        inline = InlineLLM(config, recorder)
        try:
            await inline.start()
        except ValueError as error:  # e.g. a context that the KV cache has no room for
            raise ConfigurationError(f"vllm: {error}") from error
        return inline, recorder
    from vllm.v1.engine.async_llm import AsyncLLM

    def launch() -> Any:
        return AsyncLLM.from_vllm_config(config, stat_loggers=[lambda *_: recorder], disable_log_stats=True)

    return await asyncio.to_thread(launch), recorder
