"""The `/v1/completions` endpoint: bodies of requests, and events as deltas, with token ids if the server has them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from preble.backends import Delta, EngineRequest
from preble.backends.openai.http import decoded
from preble.backends.openai.retokenize import Retokenizer, TextTokenizer, prompt_text
from preble.backends.openai.sse import DONE
from preble.backends.openai.status import ErrorBody, error_of_event
from preble.errors import EngineError, InvalidRequestError
from preble.tokens import MAX_TOKENS, pack, unpack
from preble.types import FinishReason, SamplingParams, TokenLogprob

PATH = "/v1/completions"

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}
_STANDARD = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_EXTRA = ("top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos")


class _Logprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    token_ids: list[TokenId] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: ErrorBody | None = None


_events = msgspec.json.Decoder(_Event)
_defaults = SamplingParams()


class TokenCompletions:
    """The endpoint of servers that take and return token ids (vLLM)."""

    path = PATH

    def __init__(self, model: str) -> None:
        self._model = model

    def body(self, request: EngineRequest) -> bytes:
        """Return what to POST."""
        sampling = request.sampling
        fields = _fields(self._model, list(unpack(request.tokens)), sampling)
        fields |= {name: getattr(sampling, name) for name in _EXTRA}
        fields |= {"return_token_ids": True}
        if sampling.logprobs is not None:
            fields |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
        return msgspec.json.encode(fields | routing_fields(request))

    def reader(self, request: EngineRequest) -> CompletionReader:
        """Return what reads the events of the response."""
        return CompletionReader(None, logprobs=request.sampling.logprobs)


class TextCompletions:
    """The endpoint of all other servers: they return text, which our tokenizer turns into ids.

    `ids` is True if the server takes prompts as token ids. Sampling fields that the OpenAI API does not have are sent
    only if they differ from their defaults.
    """

    path = PATH

    def __init__(self, model: str, text: TextTokenizer, *, ids: bool) -> None:
        self._model = model
        self._text = text
        self._ids = ids

    def body(self, request: EngineRequest) -> bytes:
        """Return what to POST. Raises InvalidRequestError for log-probabilities, which need ids."""
        sampling = request.sampling
        if sampling.logprobs is not None:
            raise InvalidRequestError("this server does not tell token ids", field="logprobs")
        ids = list(unpack(request.tokens))
        fields = _fields(self._model, ids if self._ids else prompt_text(self._text, ids), sampling)
        extra = {name: getattr(sampling, name) for name in _EXTRA}
        fields |= {name: value for name, value in extra.items() if value != getattr(_defaults, name)}
        return msgspec.json.encode(fields)

    def reader(self, request: EngineRequest) -> CompletionReader:
        """Return what reads the events of the response."""
        return CompletionReader(Retokenizer(self._text), logprobs=None)


class CompletionReader:
    """Reads the events of one response.

    The last delta comes with `[DONE]`, because the server sends the usage, and so the cached tokens, after the finish
    reason.
    """

    def __init__(self, retokenizer: Retokenizer | None, *, logprobs: int | None) -> None:
        self._retokenizer = retokenizer
        self._top = logprobs
        self._finish: FinishReason | None = None
        self._stop: int | None = None
        self._cached: int | None = None
        self._counted: int | None = None

    def read(self, event: bytes) -> Delta | None:
        """Return the delta of an event, if it has one. Raises the error in it, or EngineError if it is malformed."""
        if event == DONE:
            return self.end()
        message = decoded(event, _events)
        if message.error is not None:
            raise error_of_event(message.error)
        if message.usage is not None:
            self._count(message.usage)
        return self._read(message.choices[0]) if message.choices else None

    def end(self) -> Delta | None:
        """Return the last delta if the stream may end here, or None if it broke off too early."""
        if self._finish is None:
            return None
        return Delta(b"", self._cached, self._finish, self._stop, output_tokens=self._counted)

    def _count(self, usage: _Usage) -> None:
        if usage.prompt_tokens_details is not None:
            self._cached = usage.prompt_tokens_details.cached_tokens
        if self._retokenizer is not None and 0 < (usage.completion_tokens or 0) <= MAX_TOKENS:
            self._counted = usage.completion_tokens

    def _read(self, choice: _Choice) -> Delta | None:
        if choice.finish_reason is not None:
            self._finish = _finish(choice.finish_reason)
            self._stop = choice.stop_reason if isinstance(choice.stop_reason, int) else None
        ids = self._token_ids(choice)
        return Delta(pack(ids), logprobs=self._logprobs(choice, ids)) if ids else None

    def _token_ids(self, choice: _Choice) -> list[int]:
        if self._retokenizer is not None:
            return self._retokenizer.ids(choice.text)
        if choice.token_ids is None and choice.text:
            raise EngineError("the server sent text without token ids")
        return choice.token_ids or []

    def _logprobs(self, choice: _Choice, ids: list[int]) -> tuple[TokenLogprob, ...] | None:
        if self._top is None:
            return None
        sent = choice.logprobs
        if sent is None or len(sent.token_logprobs) != len(ids):
            raise EngineError("the server sent tokens without their log-probabilities")
        tops = sent.top_logprobs or [None] * len(ids)
        return tuple(
            TokenLogprob(id, 0.0 if logprob is None else logprob, _top(top or {}, self._top))
            for id, logprob, top in zip(ids, sent.token_logprobs, tops, strict=True)
        )


def routing_fields(request: EngineRequest) -> dict[str, Any]:
    """Return priority and cache salt under vLLM's and SGLang's names, if they are set: not every server takes them."""
    fields = {"priority": request.priority, "cache_salt": request.cache_salt}
    return {name: value for name, value in fields.items() if value}


def _fields(model: str, prompt: list[int] | str, sampling: SamplingParams) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(sampling, name) for name in _STANDARD}
    fields |= {"model": model, "prompt": prompt, "max_tokens": sampling.token_limit}
    fields |= {"stream": True, "stream_options": {"include_usage": True}}
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    return fields


def _finish(reason: str) -> FinishReason:
    if reason not in _FINISH:
        raise EngineError(f"the server ended the request: {reason[:100]}")
    return _FINISH[reason]


def _top(entries: dict[str, float], count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most likely of tokens named "token_id:17"."""
    try:
        pairs = [(int(name.removeprefix("token_id:")), logprob) for name, logprob in entries.items()]
    except ValueError:
        raise EngineError("the server named tokens by their text") from None
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:count])
