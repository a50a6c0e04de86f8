"""A server in the test's own event loop, over the `sim` engine, in any of `tests.dialects`; it fails when told to."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from preble.backends import Delta, EngineRequest
from preble.backends.sim import SimEngine
from preble.text import Detokenizer, Tokenizer
from preble.tokens import TOKEN_BYTES, pack, unpack
from preble.types import SamplingParams
from tests.dialects import DIALECTS, MISSING

FIELDS = (
    "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "logprobs", "ignore_eos",
    "stop_token_ids", "logit_bias", "prompt_logprobs",
)  # fmt: skip
STRICT = {"model", "prompt", "stream", "stream_options", "max_tokens", "temperature", "top_p", "presence_penalty",
          "frequency_penalty", "seed", "logit_bias"}  # fmt: skip


LAST = -1


class OpenAIServer:
    """Speaks the dialect `kind`; those of text need a `tokenizer`. `said` are the ids generated for each request.

    `failures` are (where, status, words) for the next requests: instead of a response ("status"), as the first event of
    a stream ("first"), or after some tokens ("midway"). After `stop_after` tokens a response stops.

    `answers` are (status, headers, body) given instead of the next completions. A stream is cut once after each
    number in `cuts` of events, or after the `LAST` with tokens, and says what is in `garbage` before it ends.
    `bodies` are the requests that came. While `healthy` is cleared it says nothing of itself, while `flowing` is, no
    token comes. `models` is what it says at /v1/models instead of the truth. `checks` counts how often it was asked for
    its health. `noise` is sent over and over instead of an answer.
    """

    def __init__(
        self,
        kind: str = "vllm",
        *,
        api_key: str | None = None,
        tokenizer: Tokenizer | None = None,
        port: int = 0,
        **options: Any,
    ) -> None:
        self.kind = kind
        self.dialect = DIALECTS[kind]
        self.said: list[list[int]] = []
        self.failures: deque[tuple[str, int, str]] = deque()
        self.stop_after: int | None = None
        self.answers: deque[tuple[int, dict[str, str], str]] = deque()
        self.cuts: deque[int] = deque()
        self.garbage: deque[bytes] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.healthy = asyncio.Event()
        self.healthy.set()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.noise = b""
        self.checks = 0
        self.models: dict[str, Any] | None = None
        self.status = 200
        self.connections: set[Any] = set()
        self.engine: SimEngine
        self._options = {"vocab_size": 4096, "context_limit": 2048, "kv_tokens": 4096, **options}
        self._api_key = api_key
        self._tokenizer = tokenizer
        self._ids = itertools.count(1)
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> OpenAIServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, at the address of the last time if there was one, with an empty cache."""
        self.engine = SimEngine(**self._options)
        await self.engine.start()
        application = web.Application(middlewares=[self._guard])
        application.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                *([web.get("/metrics", self._metrics)] if self.dialect.vllm_metrics else []),
                web.get("/server_info", self._info),
                web.get("/v1/loads", self._loads),
                web.post("/v1/completions", self._completions),
                web.post("/generate", self._generate),
                web.post("/reset_prefix_cache", self._reset),
                web.post("/flush_cache", self._reset),
                *(web.get(path, _document(about)) for path, about in self._documents().items()),
            ]
        )
        self._runner = web.AppRunner(application, shutdown_timeout=0.01, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Die: cut all connections and listen no more."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            if runner.server:
                for connection in list(runner.server.connections):
                    if connection.transport:
                        connection.transport.abort()
            await runner.cleanup()
            await self.engine.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.connections.add(request.transport)
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            shown = request.headers.get("Authorization", "")
            return web.json_response({"error": {"message": f"wrong key: {shown}", "code": 401}}, status=401)
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        self.checks += 1
        await self.healthy.wait()
        return web.Response(status=self.status if self.dialect.health == 200 else self.dialect.health)

    async def _models(self, request: web.Request) -> web.Response:
        await self.healthy.wait()
        if self.models is not None:
            return web.json_response(self.models)
        return web.json_response(self.dialect.models(self._options["context_limit"]))

    def _documents(self) -> dict[str, Any]:
        return self.dialect.documents(self._options["context_limit"])

    async def _metrics(self, request: web.Request) -> web.Response:
        load, options = self.engine.load(), self.engine.options
        labels = '{engine="0",model_name="sim"}'
        blocks = options.kv_tokens // options.block_size
        return web.Response(
            text=f'vllm:cache_config_info{{block_size="{options.block_size}",num_gpu_blocks="{blocks}"}} 1.0\n'
            f"vllm:num_requests_running{labels} {load.running}.0\nvllm:num_requests_waiting{labels} {load.waiting}.0\n"
            f"vllm:kv_cache_usage_perc{labels} {load.used_tokens / options.kv_tokens}\n"
        )

    async def _info(self, request: web.Request) -> web.Response:
        options = self.engine.options
        sizes = {"max_total_num_tokens": options.kv_tokens, "page_size": options.block_size}
        sign = self.dialect.priority
        priority = {"enable_priority_scheduling": sign != 0, "schedule_low_priority_values_first": sign == 1}
        return web.json_response({**sizes, **priority, "max_running_requests": options.max_running})

    async def _loads(self, request: web.Request) -> web.Response:
        load = self.engine.load()
        entry = {
            "num_running_reqs": load.running,
            "num_waiting_reqs": load.waiting,
            "num_used_tokens": load.used_tokens,
        }
        return web.json_response({"loads": [entry]})

    async def _reset(self, request: web.Request) -> web.Response:
        await self.engine.reset_cache()
        return web.Response()

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("stream"):
            return self._probe(body)
        if refusal := self._refusal(body):
            return refusal
        prompt = body["prompt"]
        ids = self._tokenizer.encode(prompt) if self._tokenizer and isinstance(prompt, str) else prompt
        if refusal := self._too_long(ids):
            return refusal
        if body.get("echo"):
            body["prompt_logprobs"] = body["logprobs"]
        if self.dialect.document:
            return await self._whole(request, ids, body)
        response = await self._stream(request)
        async for event in self._events(request, response, ids, body):
            await self._say(response, event)
        return await self._done(response)

    async def _events(
        self, request: web.Request, response: web.StreamResponse | None, ids: list[int], body: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """The events of `/v1/completions`."""
        dialect = self.dialect
        usage: dict[str, Any] = {"prompt_tokens": len(ids) + (not dialect.returns_ids), "completion_tokens": 0}
        text = Detokenizer(self._tokenizer) if self._tokenizer and not dialect.returns_ids else None
        async for delta in self._deltas(request, response, ids, body):
            if delta.cached_tokens is not None and dialect.returns_ids:
                usage["prompt_tokens_details"] = {"cached_tokens": delta.cached_tokens}
            usage["completion_tokens"] += len(delta.tokens) // TOKEN_BYTES
            event = {"choices": [self._choice(delta, body, text)]}
            yield event | ({"usage": usage} if dialect.usage == "each" else {})
        if dialect.usage == "last":
            yield {"choices": [], "usage": usage}

    async def _whole(self, request: web.Request, ids: list[int], body: dict[str, Any]) -> web.Response:
        """The events of a response in one document."""
        events = [event async for event in self._events(request, None, ids, body)]
        choices = [choice for event in events for choice in event["choices"]]
        whole = {**choices[-1], "text": "".join(choice["text"] for choice in choices)}
        if self.dialect.returns_ids:
            whole["token_ids"] = [token for choice in choices for token in choice["token_ids"]]
        return web.json_response(self.dialect.twist({"choices": [whole], "usage": events[-1].get("usage")}))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if refusal := self._refusal(body):
            return refusal
        sampling = {**body["sampling_params"]}
        sampling["max_tokens"] = sampling.pop("max_new_tokens")
        sampling["min_tokens"] = sampling.pop("min_new_tokens")
        if body.get("return_logprob"):
            sampling["logprobs"] = body["top_logprobs_num"]
            sampling["prompt_logprobs"] = body["top_logprobs_num"] if body.get("logprob_start_len") == 0 else None
        if refusal := self._too_long(body["input_ids"]):
            return refusal
        response = await self._stream(request)
        ids: list[int] = []
        logprobs: list[Any] = []
        prompt: tuple[Any, ...] = ()
        cached = 0
        async for delta in self._deltas(request, response, body["input_ids"], sampling):
            cached = cached if delta.cached_tokens is None else delta.cached_tokens
            ids += unpack(delta.tokens)
            logprobs += delta.logprobs or ()
            prompt = delta.prompt_logprobs or prompt
            if prompt or sampling.get("prompt_logprobs") is None:  # nothing is said before the prompt is computed
                meta = _meta(delta, self.dialect.words.get(delta.finish_reason), ids, cached, logprobs)
                await self._say(response, {"output_ids": ids, "meta_info": meta | _prompt_meta(prompt)})
        return await self._done(response)

    def _probe(self, body: dict[str, Any]) -> web.Response:
        unknown = self.dialect.strict and set(body) - STRICT
        if unknown or (isinstance(body["prompt"], list) and not self.dialect.takes_ids):
            return self._error(400, "no such thing")
        choice = {"text": "x"} | ({"token_ids": [7]} if self.dialect.returns_ids else {})
        return web.json_response(self.dialect.twist({"choices": [choice]}))

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        self.bodies.append(body)
        if self.answers:
            status, headers, text = self.answers.popleft()
            return web.Response(status=status, headers=headers, body=text.encode("latin1"))
        if self.dialect.strict and set(body) - STRICT:
            return self._error(400, "unknown field")
        if self.failures and self.failures[0][0] == "status":
            return self._error(*self.failures.popleft()[1:])
        return None

    def _too_long(self, ids: list[int]) -> web.Response | None:
        status, words = self.dialect.too_long
        limit = self._options["context_limit"]
        return self._error(status, words.format(length=len(ids), limit=limit)) if len(ids) >= limit else None

    def _error(self, status: int, words: str) -> web.Response:
        headers = {"Retry-After": "3"} if status in (429, 503) else {}
        return web.Response(status=status, headers=headers, body=self.dialect.error_body(status, words))

    async def _fail(self, response: web.StreamResponse | None, where: str) -> bool:
        """Say in a stream that it has failed, if it shall."""
        if response is None or not self.failures or self.failures[0][0] != where:
            return False
        _, status, words = self.failures.popleft()
        await response.write(self.dialect.event_error(self.dialect.error_body(status, words)))
        return True

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": self.dialect.content_type})
        await response.prepare(request)
        await response.write(b": welcome\r\n\r\n")
        return response

    async def _say(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(self.dialect.frame(json.dumps(self.dialect.twist(event)).encode()))

    async def _done(self, response: web.StreamResponse) -> web.StreamResponse:
        if self.dialect.done:
            await response.write(b"data: [DONE]\n\n")
        await asyncio.sleep(0.002)  # the end of the answer comes in a packet of its own
        return response

    async def _deltas(
        self, request: web.Request, response: web.StreamResponse | None, ids: list[int], body: dict[str, Any]
    ) -> AsyncIterator[Delta]:
        sampling = SamplingParams(**{name: body[name] for name in FIELDS if body.get(name) not in (None, -1)})
        while self.noise:
            await response.write(self.noise)
            await asyncio.sleep(0.002)
        cut = self.cuts.popleft() if self.cuts else None
        stream = self.engine.generate(EngineRequest(next(self._ids), pack(ids), sampling))
        said: list[int] = []
        self.said.append(said)
        try:
            if await self._fail(response, "first"):
                return
            events = 0
            async for delta in stream:
                await self.flowing.wait()
                said += unpack(delta.tokens)
                if stopped := self.stop_after is not None and len(said) >= self.stop_after:
                    delta.finish_reason = "stop"
                yield delta
                events += 1
                if stopped or (len(said) >= 2 and await self._fail(response, "midway")):
                    return
                if response is not None and (events == cut or (cut == LAST and delta.finish_reason)):
                    request.transport.abort()
                    raise ConnectionResetError
            if self.garbage and response is not None:
                await response.write(self.garbage.popleft())
        finally:
            await stream.aclose()

    def _choice(self, delta: Delta, body: dict[str, Any], text: Detokenizer | None) -> dict[str, Any]:
        ids = list(unpack(delta.tokens))
        choice: dict[str, Any] = {"index": 0, "text": "?" * len(ids)}
        if (word := self.dialect.words.get(delta.finish_reason)) is not MISSING:
            choice["finish_reason"] = word
        if self.dialect.returns_ids:
            choice |= {"token_ids": ids, "stop_reason": delta.stop_reason}
        elif text is not None:
            choice["text"] = text.add(ids) + (text.finish() if delta.finish_reason else "")
        entries = [*(delta.prompt_logprobs or ()), *(delta.logprobs or ())]
        if entries:
            choice["logprobs"] = {
                "tokens": [f"token_id:{entry.token_id if entry else body['prompt'][0]}" for entry in entries],
                "token_logprobs": [entry and entry.logprob for entry in entries],
                "top_logprobs": [entry and {f"token_id:{id}": value for id, value in entry.top} for entry in entries],
            }
        return choice


def _prompt_meta(entries: tuple[Any, ...]) -> dict[str, Any]:
    told = [(entry.logprob, entry.token_id, None) if entry else (None, 0, None) for entry in entries]
    tops = [entry and [(value, id, None) for id, value in entry.top] for entry in entries]
    return {"input_token_logprobs": told, "input_top_logprobs": tops}


def _meta(delta: Delta, word: Any, ids: list[int], cached: int, logprobs: list[Any]) -> dict[str, Any]:
    finish = {"type": word, "matched": delta.stop_reason} if word else None
    return {
        "finish_reason": finish,
        "completion_tokens": len(ids),
        "cached_tokens": cached,
        "output_token_logprobs": [(entry.logprob, entry.token_id, None) for entry in logprobs],
        "output_top_logprobs": [[(value, id, None) for id, value in entry.top] for entry in logprobs],
    }


def _document(about: Any) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(about)

    return handler
