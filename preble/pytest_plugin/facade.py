"""A cluster on an event loop of its own, for tests that have another loop or none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from types import TracebackType
from typing import Any, TypeVar, Unpack

from preble import Chunk, Generation, PrebleCluster, SamplingParams
from preble.cluster.loop_thread import LoopThread
from preble.cluster.prompt import Prompt
from preble.core.receipt import Receipt
from preble.pytest_plugin.resources import Opened
from preble.testing import Faults
from preble.types import ClusterStats, RequestKeywords

_Result = TypeVar("_Result")

_END: Any = object()
PATIENCE = 120.0
"""Seconds that anything may take that a test waits for."""
IDLE_WITHIN = 10.0
"""Seconds in which the requests that a test has left must have ended."""


class Cluster:
    """A `PrebleCluster` that any thread and any event loop may use.

    `generate` and `stream` wait; `agenerate` and `astream` are for `async def` tests, in whatever loop these run.
    `cluster` itself belongs to its own loop, where `run` calls what else it has. A `source` of its answers is started
    there too.
    """

    def __init__(
        self, cluster: PrebleCluster, *, faults: Faults | None = None, source: PrebleCluster | None = None
    ) -> None:
        self.cluster = cluster
        self.faults = faults
        self._source = source
        self._thread = LoopThread()
        self._stack = AsyncExitStack()
        self._opened = Opened()
        self._url: str | None = None
        self._left = 0
        self._before = (0, 0)

    def __enter__(self) -> Cluster:
        with self._opened:
            self._thread.start()
            try:
                self.run(self._start())
            except BaseException:
                self.run(self._stack.aclose())
                self._thread.stop()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._stack.aclose())
        finally:
            self._thread.stop()
        if error is None:
            self._opened.check()

    def generate(
        self, prompt: Prompt, sampling: SamplingParams | None = None, **options: Unpack[RequestKeywords]
    ) -> Generation:
        """As `PrebleCluster.generate`."""
        return self.run(self.cluster.generate(prompt, sampling, **options))

    def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, **options: Unpack[RequestKeywords]
    ) -> Generator[Chunk, None, None]:
        """As `PrebleCluster.stream`: an iterator of chunks. Leaving it early cancels the request."""
        return self._thread.draw(self.run(_called(self.cluster.stream, prompt, sampling, **options)))

    def generate_many(self, prompts: Sequence[Prompt], *args: Any, **options: Any) -> list[Any]:
        """As `PrebleCluster.generate_many`: the list of the results."""
        return self.run(self._many(prompts, *args, **options))

    async def agenerate(
        self, prompt: Prompt, sampling: SamplingParams | None = None, **options: Unpack[RequestKeywords]
    ) -> Generation:
        """As `PrebleCluster.generate`, from any event loop."""
        return await self.arun(self.cluster.generate(prompt, sampling, **options))

    async def astream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, **options: Unpack[RequestKeywords]
    ) -> AsyncGenerator[Chunk, None]:
        """As `PrebleCluster.stream`, from any event loop."""
        source = await self.arun(_called(self.cluster.stream, prompt, sampling, **options))
        try:
            while (chunk := await self.arun(_next(source))) is not _END:
                yield chunk
        finally:
            with suppress(RuntimeError):  # it ends already
                await self.arun(source.aclose())

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine of `cluster` on its event loop, such as `add_worker()`, and return its result."""
        return self._thread.run(coroutine)

    async def arun(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """As `run`, from any event loop."""
        return await asyncio.wrap_future(self._thread.submit(coroutine))

    def receipt(self, answer: Any) -> Receipt:
        """Return the receipt of a Generation, a Chunk, a request id, or a response of the OpenAI client.

        `cached_tokens` in it is what the engine found in its cache. Raises KeyError if the cluster does not know it.
        """
        id = answer if isinstance(answer, str) else getattr(answer, "request_id", None) or answer.id
        try:
            return self.cluster.explain(id)
        except KeyError:
            return self.cluster.explain(id.partition("-")[2])  # chatcmpl-r1, cmpl-r1

    def hit_ratio(self) -> float:
        """Return what part of the prompt tokens since this test began was cached, 0 to 1; 0 if there were none."""
        prompt, cached = (now - before for now, before in zip(self._counted(), self._before, strict=True))
        return cached / prompt if prompt else 0.0

    def stats(self) -> ClusterStats:
        """As `PrebleCluster.stats`."""
        return self.cluster.stats()

    @property
    def workers(self) -> list[str]:
        """The names of the workers that are not lost."""
        return [each.worker for each in self.stats().workers if each.status != "lost"]

    @property
    def url(self) -> str:
        """The base URL of an OpenAI server on this machine, which is started when this is first asked for."""
        if self._url is None:
            with self._opened:
                self._url = self.run(self._stack.enter_async_context(self.cluster.serve_http(grace=1.0)))
        return self._url

    def openai(self, **options: Any) -> Any:
        """Return an `openai.OpenAI` client without a socket; close it in the end. It does not try again by itself."""
        import_module("openai")  # here, and not on the loop, which it would hold up
        return self.run(_called(self.cluster.openai_sync, **{"max_retries": 0, **options}))

    def async_openai(self, **options: Any) -> Any:
        """Return an `openai.AsyncOpenAI` client for any event loop, which asks the server at `url`."""
        import openai

        # No connection is kept: a client that nobody closes leaves none behind.
        ours = {"base_url": self.url, "api_key": "none", "max_retries": 0, "default_headers": {"connection": "close"}}
        return openai.AsyncOpenAI(**{**ours, **options})

    def begin(self) -> None:
        """Let `hit_ratio` count from here."""
        self._before = self._counted()

    def check_idle(self) -> None:
        """Raise AssertionError if requests are in flight that nobody waits for any more."""
        until = time.monotonic() + IDLE_WITHIN
        while (left := self.stats().in_flight) > self._left and time.monotonic() < until:
            time.sleep(0.002)
        before, self._left = self._left, left
        if left > before:
            raise AssertionError(f"the test has left {left - before} requests in flight: close streams, await tasks")
        self.cluster.check()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds. Raises TimeoutError that says for `what` it waited."""
        until = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"waited {PATIENCE:g} s until {what}")
            time.sleep(0.005)

    async def _start(self) -> None:
        if self._source is not None:
            await self._stack.enter_async_context(self._source)
        await self._stack.enter_async_context(self.cluster)

    async def _many(self, *args: Any, **options: Any) -> list[Any]:
        results: list[Any] = await self.cluster.generate_many(*args, **options)
        return results

    def _counted(self) -> tuple[int, int]:
        counters = self.stats().counters
        return counters.prompt_tokens, counters.cached_tokens


async def _called(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    return function(*args, **keywords)


async def _next(source: AsyncGenerator[_Result, None]) -> _Result:
    return await anext(source, _END)
