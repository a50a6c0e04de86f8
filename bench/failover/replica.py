"""A server of vLLM's completions API, with token ids, over the `sim` engine; bad on request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from bench.failover.kinds import ReplicaFault
from preble import SamplingParams
from preble.backends import Delta, EngineRequest
from preble.backends.sim import SimEngine
from preble.core.copies import COPY_PRIORITY
from preble.tokens import pack, unpack

_encode = msgspec.json.Encoder().encode
_PROBED = {"choices": [{"text": "x", "token_ids": [7]}]}


class Completions(msgspec.Struct, frozen=True):
    """The part of a request's body that matters here."""

    prompt: list[int]
    max_tokens: int = 16
    stream: bool = False
    priority: int = 0


_decode = msgspec.json.Decoder(Completions).decode


class Replica:
    """Listens at a free port of the loopback address while it is open. Options are those of the `sim` engine.

    `fault` may be set at any time, and holds for completions that come later. `received` counts completions, but for
    copies of prefixes that the cluster makes of its own accord, and `health_checks` the requests for /health.
    """

    def __init__(self, **options: Any) -> None:
        self.fault = ReplicaFault()
        self.received = self.health_checks = 0
        self._engine = SimEngine(**options)
        self._ids = itertools.count(1)
        self._url = ""
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return self._url

    async def __aenter__(self) -> Replica:
        await self._engine.start()
        self._runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.01
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        await self._engine.close()

    def _application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._completions)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        self.health_checks += 1
        await asyncio.sleep(self.fault.late_health)
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        card = {"id": "sim", "owned_by": "vllm", "max_model_len": self._engine.options.context_limit}
        return web.json_response({"object": "list", "data": [card]})

    async def _metrics(self, request: web.Request) -> web.Response:
        load, options = self._engine.load(), self._engine.options
        sizes = f'block_size="{options.block_size}",num_gpu_blocks="{options.kv_tokens // options.block_size}"'
        return web.Response(
            text=f"vllm:cache_config_info{{{sizes}}} 1.0\n"
            f"vllm:num_requests_running {load.running}.0\nvllm:num_requests_waiting {load.waiting}.0\n"
            f"vllm:kv_cache_usage_perc {load.used_tokens / options.kv_tokens}\n"
        )

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        asked, fault = _decode(await request.read()), self.fault
        if not asked.stream:
            return web.json_response(_PROBED)
        self.received += asked.priority != COPY_PRIORITY
        if fault.hangs:
            await asyncio.Event().wait()
        if fault.status != 200:
            return _refusal(fault)
        return await self._stream(request, asked, fault)

    async def _stream(self, request: web.Request, asked: Completions, fault: ReplicaFault) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client has gone, or was left alone
            await self._answer(response, asked, fault.break_after)
            return response
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _answer(self, response: web.StreamResponse, asked: Completions, break_after: int | None) -> None:
        events = cached = 0
        async with aclosing(_deltas(self._engine, next(self._ids), asked)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                cached = cached if delta.cached_tokens is None else delta.cached_tokens
                await response.write(_event(delta))
                events += 1
                if events == break_after:
                    raise ConnectionError
        await response.write(_usage(asked, cached) + b"data: [DONE]\n\n")


def _refusal(fault: ReplicaFault) -> web.Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    message = {"error": {"message": "out of order", "code": fault.status}}
    return web.json_response(message, status=fault.status, headers=headers)


def _deltas(engine: SimEngine, id: int, asked: Completions) -> AsyncIterator[Delta]:
    sampling = SamplingParams(max_tokens=asked.max_tokens, temperature=0.0, ignore_eos=True)
    return engine.generate(EngineRequest(id, pack(asked.prompt), sampling))


def _event(delta: Delta) -> bytes:
    ids = list(unpack(delta.tokens))
    choice = {"index": 0, "text": "?" * len(ids), "token_ids": ids, "finish_reason": delta.finish_reason}
    return b"data: " + _encode({"choices": [choice]}) + b"\n\n"


def _usage(asked: Completions, cached: int) -> bytes:
    usage = {"prompt_tokens": len(asked.prompt), "prompt_tokens_details": {"cached_tokens": cached}}
    return b"data: " + _encode({"choices": [], "usage": usage}) + b"\n\n"
