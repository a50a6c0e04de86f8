"""The `openai` engine: one replica behind a URL, as an `Engine`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load
from preble.backends.checks import check_biases
from preble.backends.openai.backoff import pause
from preble.backends.openai.discovery import Described, Reader, describe
from preble.backends.openai.events import KvEvents
from preble.backends.openai.forward import Forward, deltas
from preble.backends.openai.http import Http, decoded
from preble.backends.openai.metrics import sglang_load, vllm_load
from preble.backends.openai.options import replica_options
from preble.backends.openai.request_state import AbortedError, RequestState
from preble.backends.openai.retokenize import TextTokenizer
from preble.errors import (
    ConfigurationError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    PrebleError,
    StateError,
    UnreachableError,
)
from preble.tokens import TOKEN_BYTES, highest, pack

_RESETS = {"sglang": "/flush_cache?timeout=5"}
_VLLM_RESET = "/reset_prefix_cache"
_RESET_TIMEOUT = 10.0
_DRAIN_TIMEOUT, _DRAIN_EVENTS = 1.0, 8
_LARGEST = 1 << 40  # of any size, in tokens or requests
_PIECES = 8  # so many of our tokens may make one of a server that sends text, where its tokenizer is another
_TEXT_TOKENS = 16  # by so many may a server that gets text count more prompt tokens than we, such as its begin token
_logger = logging.getLogger("preble.openai")


class _Tokenized(msgspec.Struct):
    tokens: list[int]


_tokenized = msgspec.json.Decoder(_Tokenized)


class OpenAIEngine:
    """Sends requests to a server that runs already. Options are the fields of `ReplicaOptions`.

    `model` is a folder with the model's tokenizer and config.json, or None. `text` is that tokenizer, which is needed
    only if the server returns no token ids. `api_key` is sent as a bearer token and never shown. Raises
    ConfigurationError naming the option that is wrong. While `start` waits, `problem` says what for.
    """

    def __init__(
        self, *, model: str | None = None, api_key: str | None = None, text: TextTokenizer | None = None, **options: Any
    ) -> None:
        self.options = replica_options(options)
        self.text = text
        self.problem = ""
        self._model = model
        self._api_key = api_key
        self._http: Http | None = None
        self._described: Described | None = None
        self._health = self.options.health_path
        self._load: Load | None = None
        self._cleared: list[Evicted] = []
        self._events: KvEvents | None = None
        self._requests: dict[int, RequestState] = {}
        self._tokenizes = True

    async def start(self) -> EngineInfo:
        """Wait until the server is healthy, however long that takes, and find out what it is.

        May be called again after the server was lost. Raises ConfigurationError if it refuses the API key, or does not
        serve the model.
        """
        self._http = self._http or self._connect()
        failures, self.problem = 0, "no answer so far"
        while True:
            try:
                await self.ping()
                self.problem = self.problem if failures else "it is healthy, but has not told yet what it serves"
                described = await describe(self._http, self.options, model=self._model, text=self.text)
                _check_sizes(self.options.url, described.info)
                self._described = described
                self._subscribe(described.info)
                return described.info
            except (UnreachableError, OverloadedError, EngineError) as error:
                failures, self.problem = failures + 1, str(error).removeprefix(f"{self.options.url}: ")
                level = logging.WARNING if failures == 1 else logging.DEBUG
                _logger.log(level, "waiting for %s: %s", self.options.url, self.problem)
                await asyncio.sleep(self._pause(failures, error))

    async def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Yield deltas until one has a `finish_reason`. Closing the iterator aborts the request.

        The request is sent once. Raises InvalidRequestError if the server refuses it, ConfigurationError if it refuses
        the API key, or has not this path or model, OverloadedError with its `retry_after` if it has too much load,
        UnreachableError if it does not answer, breaks off or sends no token within `idle_timeout`, and EngineError if
        it fails. The deltas up to there are valid.
        """
        self._check(request)
        request = self._within(request)
        state = self._requests[request.id] = self._state(request)
        try:
            async with aclosing(self._deltas(request, state)) as deltas:
                async for delta in deltas:
                    yield delta
        except AbortedError:
            yield Delta(b"", finish_reason="abort")
        finally:
            del self._requests[request.id]

    async def forward(self, exchange: Forward) -> AsyncIterator[Delta]:
        """Send a request as it came and yield its deltas; closing the iterator ends it. Raises what `generate` does."""
        http, _ = self._started()
        async with aclosing(deltas(http, exchange)) as told:
            async for delta in told:
                yield delta

    async def tokenized(self, body: bytes) -> bytes:
        """Return the packed token ids that the server's `/tokenize` has for a body, nothing if it has none."""
        http, _ = self._started()
        if self._tokenizes:
            try:
                answer = await http.ask("/tokenize", body, timeout=self.options.health_timeout)
                return pack(decoded(answer, _tokenized).tokens)
            except ConfigurationError:  # it has no such path
                self._tokenizes = False
            except PrebleError:
                pass  # whether the prompt is at fault is for the answer to it to say
        return b""

    def abort(self, id: int) -> None:
        """End a request: its iterator yields a last delta with finish reason "abort". Unknown ids are ignored."""
        if id in self._requests:
            self._requests[id].abort()

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        cleared, self._cleared = self._cleared, []
        return cleared + (self._events.evicted() if self._events else [])

    def load(self) -> Load:
        """Return the load that the server published last, or else the number of requests sent from here."""
        return self._load or Load(len(self._requests), 0, 0)

    async def ping(self) -> None:
        """Ask the server for its health. Raises UnreachableError if it does not say in time that it is healthy.

        Raises ConfigurationError if it refuses the API key.
        """
        try:
            await self._get(self._health)
        except (ConfigurationError, InvalidRequestError):  # not every server has a path for health
            if self._health == "/v1/models":
                raise
            self._health = "/v1/models"
            await self.ping()
        except (OverloadedError, EngineError) as error:
            raise UnreachableError(str(error)) from None

    async def read_load(self) -> None:
        """Ask the server for the load that it publishes, if it is of a kind that does; `load` returns it from then on.

        Raises UnreachableError if it does not answer in time, and another PrebleError if it answers something else.
        """
        _, described = self._started()
        if described.protocol == "sglang":
            self._load = sglang_load(await self._get("/v1/loads"))
        elif described.vllm:
            page = (await self._get("/metrics")).decode(errors="replace")
            self._load = vllm_load(page, described.info.kv_tokens)

    async def reset_cache(self) -> None:
        """Let the server forget all cached prefixes that no running request uses.

        Raises ConfigurationError if it cannot (vLLM can only with VLLM_SERVER_DEV_MODE=1).
        """
        http, described = self._started()
        await http.post(_RESETS.get(described.protocol, _VLLM_RESET), timeout=_RESET_TIMEOUT)
        if self._events is None:
            self._cleared.append(Evicted(b"", 0))
        else:
            self._events.forget()  # vLLM publishes the event only with its next step

    async def close(self) -> None:
        """Abort everything and free the connections."""
        for state in self._requests.values():
            state.abort()
        events, self._events = self._events, None
        if events is not None:
            events.close()
        if self._http is not None:
            await self._http.close()

    def _subscribe(self, info: EngineInfo) -> None:
        """Subscribe to the server's KV events, from the first one on: a restarted server counts them anew."""
        if self._events is not None:
            self._events.close()
        address, replay = self.options.kv_events, self.options.kv_replay
        self._events = KvEvents(address, replay=replay, block_size=info.block_size) if address else None

    async def _deltas(self, request: EngineRequest, state: RequestState) -> AsyncGenerator[Delta, None]:
        http, described = self._started()
        reader = described.api.reader(request)
        async with aclosing(http.stream(described.api.path, described.api.body(request))) as events:
            while not state.finished:
                with http.key_hidden():
                    delta = await self._next(events, reader, state)
                if delta is not None:
                    yield state.record(delta)
            await _drain(events)

    async def _next(self, events: AsyncGenerator[bytes, None], reader: Reader, state: RequestState) -> Delta | None:
        """Return the delta of the next event, if it has one.

        All tokens, or the finish reason, may have come before the connection breaks: that is an end too.
        """
        try:
            event = await state.arrival(anext(events, None))
            if event is not None:
                return reader.read(event)
            broken = UnreachableError("the stream broke off")
        except UnreachableError as error:
            broken = error
        if (last := reader.end()) is None and not state.exhausted:
            raise broken
        return last or Delta(b"", finish_reason="length")

    async def _get(self, path: str) -> bytes:
        assert self._http is not None
        return await self._http.get(path, timeout=self.options.health_timeout)

    def _started(self) -> tuple[Http, Described]:
        if self._http is None or self._described is None:
            raise StateError("the engine is not started")
        return self._http, self._described

    def _connect(self) -> Http:
        options = self.options
        return Http(
            options.url,
            api_key=self._api_key,
            connect_timeout=options.connect_timeout,
            idle_timeout=options.idle_timeout,
        )

    def _check(self, request: EngineRequest) -> None:
        """Raise InvalidRequestError for ids outside the vocabulary: one of them ends a whole SGLang server."""
        _, described = self._started()
        if (top := highest(request.tokens)) >= described.info.vocab_size:
            raise InvalidRequestError(f"token id {top} is outside [0, {described.info.vocab_size})", field="prompt")
        check_biases(request.sampling, described.info.vocab_size)
        if request.id in self._requests:
            raise InvalidRequestError(f"{request.id} is in use", field="id")

    def _within(self, request: EngineRequest) -> EngineRequest:
        """Return the request with no more `max_tokens` than fit in the context: SGLang refuses others."""
        _, described = self._started()
        own = _TEXT_TOKENS if described.protocol == "text" else 0
        room = described.info.context_limit - len(request.tokens) // TOKEN_BYTES - own
        sampling = request.sampling
        if not 0 < room < sampling.token_limit:
            return request
        fitting = msgspec.structs.replace(sampling, max_tokens=room, min_tokens=min(sampling.min_tokens, room))
        return msgspec.structs.replace(request, sampling=fitting)

    def _state(self, request: EngineRequest) -> RequestState:
        _, described = self._started()
        limit = request.sampling.token_limit
        most = _PIECES * limit if described.protocol == "text" else limit
        return RequestState(limit=limit, most=most, idle_timeout=self.options.idle_timeout)

    def _pause(self, failures: int, error: PrebleError) -> float:
        options = self.options
        return pause(failures, first=options.backoff, limit=options.backoff_limit, retry_after=error.retry_after)


def _check_sizes(url: str, info: EngineInfo) -> None:
    """Raise EngineError for sizes that no server can have: one such would bound the requests of all others."""
    for name in ("vocab_size", "context_limit", "kv_tokens", "block_size", "max_running"):
        if not 0 < (size := getattr(info, name)) <= _LARGEST:
            raise EngineError(f"{url}: tells that its {name} is {size}")


async def _drain(events: AsyncGenerator[bytes, None]) -> None:
    """Read the end of a response, so that its connection can be used again. It is no longer than a few events."""
    with contextlib.suppress(PrebleError, TimeoutError):
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            for _ in range(_DRAIN_EVENTS):
                if await anext(events, None) is None:
                    break
