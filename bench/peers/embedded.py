"""Preble as a target: the cluster in this process, and what is below its scheduler alone."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.answer import Answer
from preble import PrebleCluster, SamplingParams
from preble.backends import EngineRequest
from preble.tokens import TOKEN_BYTES, pack
from preble.transport.schema import Step, Submit
from preble.workers.binding import Bindings
from preble.workers.launched import LaunchedPool
from preble.workers.launchers.local import LocalLauncher
from preble.workers.pool import Listener

_SECONDS_TO_START = 60.0

Prompt = tuple[list[int], SamplingParams]


class Embedded:
    """Puts requests to a cluster. `workers` are the processes of its replicas, where these are not its own."""

    def __init__(self, cluster: PrebleCluster, workers: Sequence[int] = ()) -> None:
        self.cluster = cluster
        self.routers: list[int] = []
        self.workers = [*workers, *cluster.worker_pids().values()]

    def prepare(self, tokens: bytes, max_tokens: int) -> Prompt:
        """Return the arguments of `stream`: the prompt is a list of ids, which the cluster has to pack."""
        return unpacked(tokens, max_tokens)

    async def ask(self, request: Prompt) -> Answer:
        """Put a request and read all of its stream."""
        first = 0.0
        async for chunk in self.cluster.stream(*request):
            if chunk.token_ids and not first:
                first = time.perf_counter()
        usage = chunk.usage
        assert usage is not None
        return Answer(first, time.perf_counter(), usage.prompt_tokens, usage.cached_tokens)


class _Open:
    """A request under way."""

    def __init__(self, tokens: bytes) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.prompt_tokens = len(tokens) // TOKEN_BYTES
        self.first = 0.0
        self.cached_tokens = 0


class Wire:
    """Puts requests to the cluster's worker processes in turn: no scheduler, no cluster."""

    def __init__(self, count: int, options: Mapping[str, Any]) -> None:
        self.routers: list[int] = []
        self.pool = LaunchedPool(
            LocalLauncher(), backend="sim", model=None, options=options, bindings=Bindings(count, threads=1)
        )
        self._ids = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._turns: Iterator[str]

    async def start(self) -> None:
        """Start the workers."""
        listener = Listener(
            on_step=self._on_step,
            on_failed=lambda worker, request, error: self._on_lost(worker, error),
            on_lost=self._on_lost,
            on_found=lambda worker, info: None,
            on_stopping=lambda worker: None,
        )
        self._turns = itertools.cycle(await self.pool.start(listener, _SECONDS_TO_START))

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        return list(self.pool.pids().values())

    def prepare(self, tokens: bytes, max_tokens: int) -> Prompt:
        """Return what `ask` takes, the prompt as a list of ids."""
        return unpacked(tokens, max_tokens)

    async def ask(self, request: Prompt) -> Answer:
        """Send a request and wait for its end."""
        ids, sampling = request
        tokens, id = pack(ids), next(self._ids)
        self._open[id] = opened = _Open(tokens)
        self.pool.send(next(self._turns), Submit(EngineRequest(id, tokens, sampling)))
        return await opened.answer

    def _on_step(self, worker: str, step: Step) -> None:
        now = time.perf_counter()
        for id, delta in step.deltas:
            opened = self._open[id]
            if delta.cached_tokens is not None:
                opened.cached_tokens = delta.cached_tokens
            if delta.tokens and not opened.first:
                opened.first = now
            if delta.finish_reason is not None:
                del self._open[id]
                opened.answer.set_result(Answer(opened.first, now, opened.prompt_tokens, opened.cached_tokens))

    def _on_lost(self, worker: str, error: Exception) -> None:
        for opened in self._open.values():
            opened.answer.set_exception(error)


def unpacked(tokens: bytes, max_tokens: int) -> Prompt:
    """Return a packed prompt as a list with integers of its own, and how to sample."""
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return np.frombuffer(tokens, "<i4").tolist(), sampling


@asynccontextmanager
async def embedded(policy: str, options: Mapping[str, Any], count: int, folder: Path) -> AsyncIterator[Embedded]:
    """Yield a cluster with that policy; `folder` is not used."""
    async with PrebleCluster(backend="sim", workers=count, policy=policy, engine_options=options) as cluster:
        yield Embedded(cluster)


@asynccontextmanager
async def wire(options: Mapping[str, Any], count: int, folder: Path) -> AsyncIterator[Wire]:
    """Yield the workers of a cluster without it; `folder` is not used."""
    target = Wire(count, options)
    await target.start()
    try:
        yield target
    finally:
        await target.pool.stop(0.0)
