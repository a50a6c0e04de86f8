"""`PrebleCluster` for programs without an event loop: the same methods, which wait."""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterable, Sized
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack, overload

from preble.cluster.cluster import PrebleCluster
from preble.cluster.loop_thread import LoopThread
from preble.cluster.many import Many, ManyKeywords, Progress
from preble.cluster.prompt import Prompt
from preble.errors import PrebleError
from preble.text import ChatTokenizer
from preble.types import Chunk, Generation, RequestKeywords, SamplingParams

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_END: Any = object()


def _waiting(
    method: Callable[Concatenate[PrebleCluster, _Arguments], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate[SyncCluster, _Arguments], _Result]:
    @functools.wraps(method)
    def call(self: SyncCluster, /, *args: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        return self._thread.run(method(self._cluster, *args, **keywords))

    return call


def _asking(
    method: Callable[Concatenate[PrebleCluster, _Arguments], _Result],
) -> Callable[Concatenate[SyncCluster, _Arguments], _Result]:
    @functools.wraps(method)
    def call(self: SyncCluster, /, *args: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        return method(self._cluster, *args, **keywords)

    return call


def _describing(
    describe: Callable[_Arguments, object],
) -> Callable[[Callable[..., _Result]], Callable[Concatenate[Any, _Arguments], _Result]]:
    """Give a method the arguments of another one, for type checkers and for `help`."""

    def described(method: Callable[..., _Result]) -> Callable[Concatenate[Any, _Arguments], _Result]:
        own, *_ = inspect.signature(method).parameters.values()
        arguments = [each for each in inspect.signature(describe).parameters.values() if each.name != "self"]
        method.__signature__ = inspect.signature(method).replace(parameters=[own, *arguments])  # type: ignore[attr-defined]
        return method

    return described


class SyncCluster:
    """A `PrebleCluster` for programs without an event loop, with the same arguments and methods, which wait.

    >>> with SyncCluster("path/to/model", workers=2) as cluster:
    ...     out = cluster.generate("def hello():", SamplingParams(max_tokens=16))
    ...     for chunk in cluster.stream("def hello():"):
    ...         print(chunk.text, end="")

    It has an event loop in a thread of its own. Any number of threads may call it at once; Ctrl-C while one waits
    cancels what it waits for. Callbacks, such as `progress`, are called on the cluster's thread: they may ask for
    `stats`, but what waits raises StateError there. A `deadline` is a time of `time.monotonic()`.
    """

    @_describing(PrebleCluster)
    def __init__(self, *args: Any, **arguments: Any) -> None:
        """Describe a cluster, with the arguments of `PrebleCluster`. Nothing is started yet."""
        self._cluster = PrebleCluster(*args, **arguments)
        self._thread = LoopThread()

    @classmethod
    @_describing(PrebleCluster.connect)
    def connect(cls, *args: Any, **arguments: Any) -> SyncCluster:
        """Describe a cluster of servers that run already, with the arguments of `PrebleCluster.connect`."""
        cluster = cls.__new__(cls)
        cluster._cluster = PrebleCluster.connect(*args, **arguments)
        cluster._thread = LoopThread()
        return cluster

    def __enter__(self) -> SyncCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers and wait until all are ready, as `PrebleCluster.start`."""
        self._thread.start()
        weakref.finalize(self._cluster, self._thread.stop)  # after what the cluster itself does when it is forgotten
        try:
            self._thread.run(self._cluster.start())
        except BaseException:
            self._thread.stop()
            raise

    def close(self) -> None:
        """End open requests with ClosedError and stop the workers. Closing twice is harmless."""
        try:
            if self._thread.running:
                self._thread.run(self._cluster.close())
        finally:
            self._thread.stop()

    generate = _waiting(PrebleCluster.generate)
    """As `PrebleCluster.generate`, and return the Generation."""

    def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, **options: Unpack[RequestKeywords]
    ) -> Generator[Chunk, None, None]:
        """As `PrebleCluster.stream`: an iterator of chunks. Leaving it early cancels the request."""
        return self._thread.draw(self._thread.run(_called(self._cluster.stream, prompt, sampling, **options)))

    @overload
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: Literal[False] = False,
        return_exceptions: Literal[False] = False,
        **keywords: Unpack[ManyKeywords],
    ) -> list[Generation]: ...
    @overload
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: Literal[False] = False,
        return_exceptions: bool,
        **keywords: Unpack[ManyKeywords],
    ) -> list[Generation | PrebleError]: ...
    @overload
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: Literal[True],
        return_exceptions: Literal[False] = False,
        **keywords: Unpack[ManyKeywords],
    ) -> Generator[tuple[int, Generation], None, None]: ...
    @overload
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: Literal[True],
        return_exceptions: bool,
        **keywords: Unpack[ManyKeywords],
    ) -> Generator[tuple[int, Generation | PrebleError], None, None]: ...
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: bool = False,
        return_exceptions: bool = False,
        concurrency: int = 64,
        progress: Progress | None = None,
        options: Many[RequestKeywords] | None = None,
        **common: Unpack[RequestKeywords],
    ) -> Any:
        """As `PrebleCluster.generate_many`: a list of the results, or an iterator of them with `as_completed=True`.

        Iterators of prompts are read in a thread, so that they may take their time.
        """
        made = self._thread.run(
            _called(
                self._cluster.generate_many,
                _patient(prompts),
                _patient(sampling),
                as_completed=as_completed,
                return_exceptions=return_exceptions,
                concurrency=concurrency,
                progress=progress,
                options=_patient(options),
                **common,
            )
        )
        return self._thread.draw(made) if as_completed else self._thread.run(made)

    drain = _waiting(PrebleCluster.drain)
    """As `PrebleCluster.drain`."""

    add_worker = _waiting(PrebleCluster.add_worker)
    """As `PrebleCluster.add_worker`, and return its name."""

    drain_worker = _waiting(PrebleCluster.drain_worker)
    """As `PrebleCluster.drain_worker`."""

    remove_worker = _waiting(PrebleCluster.remove_worker)
    """As `PrebleCluster.remove_worker`."""

    reset_cache = _waiting(PrebleCluster.reset_cache)
    """As `PrebleCluster.reset_cache`."""

    stats = _asking(PrebleCluster.stats)
    """As `PrebleCluster.stats`."""

    explain = _asking(PrebleCluster.explain)
    """As `PrebleCluster.explain`."""

    check = _asking(PrebleCluster.check)
    """As `PrebleCluster.check`."""

    engines = _asking(PrebleCluster.engines)
    """As `PrebleCluster.engines`."""

    def openai_sync(self, **options: Any) -> Any:
        """As `PrebleCluster.openai_sync`: for any thread but the cluster's own."""
        return self._thread.run(_called(self._cluster.openai_sync, **options))

    @contextmanager
    @_describing(PrebleCluster.serve_http)
    def serve_http(self, **arguments: Any) -> Generator[str, None, None]:
        """As `PrebleCluster.serve_http`, in a `with` statement."""
        serving = self._cluster.serve_http(**arguments)
        url = self._thread.run(serving.__aenter__())
        try:
            yield url
        finally:
            self._thread.run(serving.__aexit__(None, None, None))

    worker_pids = _asking(PrebleCluster.worker_pids)
    """As `PrebleCluster.worker_pids`."""

    def reopen(self) -> None:
        """As `PrebleCluster.reopen`."""
        self._thread.run(_called(self._cluster.reopen))

    @property
    def tokenizer(self) -> ChatTokenizer | None:
        """As `PrebleCluster.tokenizer`."""
        return self._cluster.tokenizer

    @property
    def model(self) -> str | None:
        """The path of the model, None without one."""
        return self._cluster.model

    @property
    def backend(self) -> str:
        """The name of the engine."""
        return self._cluster.backend


async def _called(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call what belongs on the event loop."""
    return function(*args, **keywords)


def _patient(values: Any) -> Any:
    """Return an iterator as an asynchronous one, which does not block the event loop; other things as they are."""
    at_once = isinstance(values, (Sized, AsyncIterable)) or not isinstance(values, Iterable)
    return values if at_once else _read(values)


async def _read(values: Iterable[_Result]) -> AsyncGenerator[_Result, None]:
    items = iter(values)
    while (item := await asyncio.to_thread(next, items, _END)) is not _END:
        yield item
