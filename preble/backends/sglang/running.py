"""A started SGLang with our wait queue in front of it, and the content of its cache from its KV events."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from preble.backends import Delta, EngineRequest, Evicted, Load, StepTiming
from preble.backends.admission import Admission
from preble.backends.block_events import Cleared, HeldBlocks, decode
from preble.backends.event_feed import EventFeed
from preble.backends.sglang.options import TOPIC
from preble.backends.sglang.process import Process
from preble.backends.sglang.response import Response
from preble.backends.sglang.sampling import Limits, check, logprob_fields, parameters
from preble.backends.sglang.steps import Steps
from preble.errors import EngineError
from preble.tokens import TOKEN_BYTES, unpack
from preble.wait_queue.disciplines import Discipline
from preble.wait_queue.local import LocalScheduler

_STEPS_AHEAD = 2  # while one step is computed, the requests of the next one must be there
_EVENT_PATIENCE = 1.0
_EVENT_INTERVAL = 0.002


class Running:
    """Takes requests through the wait queue and SGLang."""

    def __init__(self, process: Process, limits: Limits, discipline: Discipline) -> None:
        self._process = process
        self._limits = limits
        self._held = HeldBlocks(limits.info.block_size)
        self._feed = EventFeed(
            process.events, replay=process.replay, topic=TOPIC, take=self._take, lost=self._held.forget
        )
        self._admission = Admission(
            LocalScheduler(discipline, block_size=limits.info.block_size),
            cached=self._held.match,
            refresh=self._feed.drain,
            max_running=limits.info.max_running,
            prefill_ahead=_STEPS_AHEAD * process.max_prefill_tokens,
        )
        self._steps = Steps(process.max_prefill_tokens)
        self._names: dict[int, str] = {}
        self._numbers = itertools.count()
        self._resetting = asyncio.Lock()
        self._emptied = asyncio.Event()
        self._cleared = False

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """Yield deltas until one has a `finish_reason`. Closing the iterator aborts the request."""
        check(request, self._limits)
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
        if not self._admission.refuse(id) and (name := self._names.get(id)):
            self._process.abort(name)

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        self._feed.drain()
        return self._held.evicted()

    def load(self) -> Load:
        """Return the load: the requests counted here, and the tokens that SGLang published last."""
        inside, most = self._admission.inside, self._limits.info.max_running
        published = self._look()
        used = int(published.num_used_tokens) if published else 0
        return Load(min(inside, most), self._admission.waiting + max(0, inside - most), used)

    def timings(self) -> list[StepTiming]:
        """Return and forget the steps since the last call that can be told apart."""
        self._look()
        return self._steps.take()

    def _look(self) -> Any:
        published = self._process.published()
        if published:
            self._steps.look(published)
        return published

    async def reset_cache(self) -> None:
        """Wait for the running requests to end, while no other is admitted, and forget all cached prefixes."""
        async with self._resetting:
            self._admission.pause()
            try:
                while self._names:
                    self._emptied.clear()
                    await self._emptied.wait()
                self._cleared = False
                await self._process.flush()
                await self._until_cleared()
            finally:
                self._admission.resume()

    def close(self) -> None:
        """Abort everything and end SGLang."""
        self._admission.refuse_all()
        for name in self._names.values():
            self._process.abort(name)
        self._feed.close()
        self._process.close()

    def check(self) -> None:
        """Raise AssertionError if the queue, or the record of the cached blocks, is inconsistent."""
        self._admission.check()
        self._held.check()

    async def _inside(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        response = Response(request.sampling, self._limits.info.eos_token_ids)
        name = self._names[request.id] = f"{next(self._numbers)}."  # SGLang aborts all that begin with the name given
        self._steps.sent(request.id, len(request.tokens) // TOKEN_BYTES)
        try:
            async with aclosing(self._process.generate(**self._request(request, name))) as outputs:
                async for output in outputs:
                    delta = response.delta(output)
                    self._steps.came(request.id, len(delta.tokens) // TOKEN_BYTES, delta.cached_tokens)
                    if delta.tokens:
                        self._admission.prefilled(request.id)
                    yield delta
                    if response.ended:
                        return
        except ValueError as error:
            raise EngineError(f"SGLang: {error}") from error
        finally:
            self._steps.left(request.id)
            del self._names[request.id]
            if not self._names:
                self._emptied.set()

    def _request(self, request: EngineRequest, name: str) -> dict[str, Any]:
        return {
            "rid": name,
            "input_ids": list(unpack(request.tokens)),
            "sampling_params": parameters(request, self._limits),
            "priority": request.priority,
            "cache_salt": request.cache_salt or None,
            **logprob_fields(request.sampling),
        }

    async def _until_cleared(self) -> None:
        """Wait for the KV event of a flush, which does not come with the response and may be lost."""
        try:
            async with asyncio.timeout(_EVENT_PATIENCE):
                while not self._cleared:
                    await asyncio.sleep(_EVENT_INTERVAL)
                    self._feed.drain()
        except TimeoutError:
            self._held.forget()

    def _take(self, body: bytes) -> None:
        events = decode(body)
        self._cleared = self._cleared or any(isinstance(event, Cleared) for event in events)
        self._held.apply(events)
