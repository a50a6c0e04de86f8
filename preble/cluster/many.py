"""Many prompts at once: those of `PrebleCluster.generate_many`, a bounded number at a time, and results as they end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sized
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np

from preble.cluster.prompt import Prompt
from preble.errors import InvalidRequestError, PrebleError, StateError
from preble.types import Generation, RequestKeywords, RequestOptions, SamplingParams, request_options
from preble.workers.gather_or_cancel import gather_or_cancel

_Item = TypeVar("_Item")

Many: TypeAlias = Iterable[_Item] | AsyncIterable[_Item]
"""What is iterated over once, as it is needed."""

Serve: TypeAlias = Callable[[Prompt, SamplingParams | None, RequestOptions], Awaitable[Generation]]

_END: Any = object()
_ONE_PROMPT = (str, bytes, bytearray, memoryview, Mapping)


class ProgressBar(Protocol):
    """What shows how far many prompts are, such as a bar of tqdm."""

    def update(self, n: int, /) -> object:
        """So many more are done."""


Progress: TypeAlias = Callable[[int], object] | ProgressBar
"""A function of the number of prompts that are done, or a bar that is told of each."""


class ManyKeywords(RequestKeywords, total=False):
    """The keywords of `PrebleCluster.generate_many`, for type checkers, but for those that decide what it returns."""

    concurrency: int
    progress: Progress | None
    options: Many[RequestKeywords] | None


class Job(msgspec.Struct, frozen=True):
    """One prompt of many. `options` are its own ones."""

    index: int
    prompt: Prompt
    sampling: SamplingParams | None
    options: RequestKeywords


async def jobs(
    prompts: Many[Prompt],
    sampling: SamplingParams | Many[SamplingParams] | None,
    options: Many[RequestKeywords] | None,
) -> AsyncGenerator[Job, None]:
    """Yield prompts with their sampling and options, reading no further than asked.

    Raises InvalidRequestError if there are not as many of one as of the others.
    """
    given: dict[str, Many[Any]] = {"prompts": prompts}
    shared = sampling if isinstance(sampling, SamplingParams) else None
    if sampling is not None and shared is None:
        given["sampling"] = sampling  # type: ignore[assignment]
    if options is not None:
        given["options"] = options
    async for index, row in _rows(given):
        yield Job(index, row["prompts"], row.get("sampling", shared), row.get("options", {}))


def check_many(prompts: object, common: RequestKeywords, concurrency: int) -> None:
    """Raise InvalidRequestError for what is wrong whatever the prompts are."""
    if isinstance(prompts, _ONE_PROMPT) or (isinstance(prompts, np.ndarray) and prompts.ndim == 1):
        raise InvalidRequestError("is one prompt: pass a list of them, or call `generate`", field="prompts")
    if not isinstance(prompts, (Iterable, AsyncIterable)):
        raise InvalidRequestError(f"must be an iterable of prompts, not {type(prompts).__name__}", field="prompts")
    if request_options(common).request_id is not None:
        hint = 'here are many, pass options=[{"request_id": ...}, ...]'
        raise InvalidRequestError(f"is for one request, {hint}", field="request_id")
    if not isinstance(concurrency, int) or concurrency < 1:
        raise InvalidRequestError(f"must be an integer of at least 1, not {concurrency!r}", field="concurrency")


class Batch:
    """One call of `generate_many`. `serve` serves a prompt; `common` are the options of all, beneath their own ones."""

    def __init__(
        self,
        serve: Serve,
        jobs: AsyncGenerator[Job, None],
        *,
        common: RequestKeywords,
        concurrency: int,
        progress: Progress | None,
        return_exceptions: bool,
    ) -> None:
        self._serve = serve
        self._jobs = jobs
        self._reading = asyncio.Lock()
        self._common = common
        self._concurrency = concurrency
        self._progress = progress
        self._return_exceptions = return_exceptions

    async def listed(self) -> list[Generation | PrebleError]:
        """Return what became of each prompt, in their order. An error that is raised has the finished results."""
        results: dict[int, Generation | PrebleError] = {}
        try:
            async with aclosing(self.as_completed()) as ended:
                async for index, result in ended:
                    results[index] = result  # noqa: PERF403 - those before an error are kept
        except PrebleError as error:
            error.results = {index: result for index, result in results.items() if isinstance(result, Generation)}
            raise
        return [results[index] for index in sorted(results)]

    async def as_completed(self) -> AsyncGenerator[tuple[int, Generation | PrebleError], None]:
        """Yield the index of each prompt and what became of it, as they end. Closing it cancels what still runs."""
        ended: asyncio.Queue[tuple[int, Generation | PrebleError] | BaseException | None]
        ended = asyncio.Queue(self._concurrency)  # a slow reader slows the work down
        working = asyncio.create_task(self._work(ended))
        try:
            for number in itertools.count(1):
                found = await ended.get()
                if found is None:
                    return
                if isinstance(found, BaseException):
                    raise found
                self._raise_unless_returned(found[1])
                self._show(number)
                yield found
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await self._jobs.aclose()

    def _raise_unless_returned(self, result: Generation | PrebleError) -> None:
        if isinstance(result, StateError) or (isinstance(result, PrebleError) and not self._return_exceptions):
            raise result

    def _show(self, number: int) -> None:
        if callable(self._progress):
            self._progress(number)
        elif self._progress is not None:
            self._progress.update(1)

    async def _work(self, ended: asyncio.Queue[Any]) -> None:
        try:
            await gather_or_cancel(self._serve_some(ended) for _ in range(self._concurrency))
        except BaseException as error:  # of what yields the prompts, which may be a CancelledError too
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # nobody reads on
            await ended.put(error)
        else:
            await ended.put(None)

    async def _serve_some(self, ended: asyncio.Queue[Any]) -> None:
        while (job := await self._next()) is not None:
            await ended.put((job.index, await self._result(job)))

    async def _next(self) -> Job | None:
        async with self._reading:
            return await anext(self._jobs, None)

    async def _result(self, job: Job) -> Generation | PrebleError:
        try:
            if not isinstance(job.options, Mapping):
                raise InvalidRequestError(f"must be mappings, not {type(job.options).__name__}", field="options")
            return await self._serve(job.prompt, job.sampling, request_options({**self._common, **job.options}))
        except PrebleError as error:
            return _named(error, job.index)


def _named(error: PrebleError, index: int) -> PrebleError:
    """Return a copy that names the prompt: several requests may have the same error, as when a cluster is closed."""
    kind = type(error)
    named = kind.__new__(kind, f"prompts[{index}]: {error}")
    named.__dict__.update(error.__dict__, index=index)
    named.__cause__ = error.__cause__
    return named.with_traceback(error.__traceback__)


async def _rows(given: Mapping[str, Many[Any]]) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
    _check_lengths({name: len(values) for name, values in given.items() if isinstance(values, Sized)})
    sources = {name: _items(values) for name, values in given.items()}
    for index in itertools.count():
        row = {name: await anext(source, _END) for name, source in sources.items()}
        over = [name for name, value in row.items() if value is _END]
        if len(over) == len(row):
            return
        if over:
            longer = next(name for name in row if name not in over)
            raise InvalidRequestError(f"ends after {index}, {longer} goes on", field=over[0])
        yield index, row


def _check_lengths(lengths: Mapping[str, int]) -> None:
    for name, length in lengths.items():
        if length != lengths.get("prompts", length):
            raise InvalidRequestError(f"{length} entries, but {lengths['prompts']} prompts", field=name)


async def _items(values: Many[_Item]) -> AsyncGenerator[_Item, None]:
    if isinstance(values, AsyncIterable):
        async for item in values:
            yield item
    else:
        for item in values:
            yield item
