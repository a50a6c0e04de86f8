"""A worker that serves the `sim` engine over HTTP, with the routes that SGLang's routers ask for.

`python -m bench.peers.http_worker PORT OPTIONS` listens at the loopback address; the engine's options are JSON.
`POST /generate` takes `text` (see `letters`) or `input_ids`, and streams if asked to; the GETs are those by which
routers tell SGLang from other engines and learn of a worker's health, model and capacity.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import uvloop
from aiohttp import web

from bench.peers.letters import to_text, to_tokens
from preble import SamplingParams
from preble.backends import EngineInfo, EngineRequest
from preble.backends.sim import SimEngine
from preble.errors import PrebleError
from preble.tokens import TOKEN_BYTES, pack

ABOUT = ("/health", "/model_info", "/get_model_info", "/server_info", "/get_server_info", "/v1/models")
_LARGEST_BODY = 16 << 20
_encode = msgspec.json.Encoder().encode


class Sampling(msgspec.Struct, frozen=True):
    """The part of SGLang's sampling parameters that matters here."""

    max_new_tokens: int = 128


class Generate(msgspec.Struct, frozen=True):
    """The body of `POST /generate`: one prompt, as text or as ids."""

    text: str | None = None
    input_ids: list[int] | None = None
    sampling_params: Sampling = Sampling()
    stream: bool = False

    def tokens(self) -> bytes:
        """Return the prompt as packed int32. Raises ValueError if there is none, or it is not made of token ids."""
        tokens = to_tokens(self.text or "") if self.input_ids is None else pack(self.input_ids)
        if not tokens:
            raise ValueError("needs text or input_ids")
        return tokens


_decode = msgspec.json.Decoder(Generate).decode


class Worker:
    """Answers requests with one engine."""

    def __init__(self, engine: SimEngine, info: EngineInfo) -> None:
        self.engine = engine
        self._about = _encode(about(info))
        self._ids = itertools.count(1)

    async def inform(self, request: web.Request) -> web.Response:
        """Answer any of ABOUT: all that routers look for, whichever they ask."""
        return web.Response(body=self._about, content_type="application/json")

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer with one event per delta and `[DONE]`, or with the last event alone if no stream was asked for."""
        try:
            asked = _decode(await request.read())
            engine_request = self._engine_request(asked)
        except (ValueError, PrebleError) as error:  # msgspec's errors are ValueErrors too
            return web.json_response({"error": {"message": str(error)}}, status=400)
        async with aclosing(self.events(engine_request)) as events:
            return await (_stream(request, events) if asked.stream else _whole(events))

    async def events(self, request: EngineRequest) -> AsyncGenerator[bytes, None]:
        """Yield an answer's events as JSON, each with the text so far, as SGLang does."""
        output, cached = b"", 0
        async with aclosing(self.engine.generate(request)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                output += delta.tokens
                cached = cached if delta.cached_tokens is None else delta.cached_tokens
                if delta.tokens or delta.finish_reason:
                    yield _encode(event(request, output, cached, delta.finish_reason))

    def _engine_request(self, asked: Generate) -> EngineRequest:
        sampling = SamplingParams(max_tokens=asked.sampling_params.max_new_tokens, temperature=0.0)
        return EngineRequest(next(self._ids), asked.tokens(), sampling)


def event(request: EngineRequest, output: bytes, cached: int, finish_reason: str | None) -> dict[str, Any]:
    """Return one event of SGLang's native API."""
    return {
        "text": to_text(output),
        "meta_info": {
            "id": str(request.id),
            "prompt_tokens": len(request.tokens) // TOKEN_BYTES,
            "completion_tokens": len(output) // TOKEN_BYTES,
            "cached_tokens": cached,
            "finish_reason": finish_reason and {"type": finish_reason},
        },
    }


def about(info: EngineInfo) -> dict[str, Any]:
    """Return what SGLang's routers look for when a worker is added."""
    return {
        "status": "ok",
        "model_path": info.model,
        "served_model_name": info.model,
        "version": "0",
        "tp_size": 1,
        "dp_size": 1,
        "max_total_num_tokens": info.kv_tokens,
        "is_generation": True,
        "object": "list",
        "data": [{"id": info.model, "object": "model"}],
    }


async def _stream(request: web.Request, events: AsyncIterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for body in events:
        await response.write(b"data: " + body + b"\n\n")
    await response.write_eof(b"data: [DONE]\n\n")
    return response


async def _whole(events: AsyncIterator[bytes]) -> web.Response:
    last = b""
    async for body in events:
        last = body
    return web.Response(body=last, content_type="application/json")


def application(worker: Worker) -> web.Application:
    """Return the routes."""
    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_post("/generate", worker.generate)
    for path in ABOUT:
        app.router.add_get(path, worker.inform)
    return app


async def serve(port: int, options: dict[str, Any]) -> None:
    """Start the engine and answer until the process is ended."""
    engine = SimEngine(discipline="fcfs", **options)  # as engines are by themselves
    runner = web.AppRunner(application(Worker(engine, await engine.start())), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), msgspec.json.decode(sys.argv[2])))
