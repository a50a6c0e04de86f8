"""The `/v1/completions` endpoint: bodies of requests, and events as deltas, with token ids if the server has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from preble.backends import Delta, EngineRequest
from preble.backends.openai.finish import Ending, finish_reason
from preble.backends.openai.http import decoded
from preble.backends.openai.retokenize import Retokenizer, TextTokenizer, prompt_text
from preble.backends.openai.sse import DONE
from preble.backends.openai.stream_errors import decoded_event, raise_error_in
from preble.errors import EngineError, InvalidRequestError
from preble.tokens import MAX_TOKENS, pack, unpack
from preble.types import PromptLogprobs, SamplingParams, TokenLogprob

PATH = "/v1/completions"

Logprobs: TypeAlias = tuple[TokenLogprob, ...]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
TokenIds = Annotated[list[TokenId], Meta(max_length=MAX_TOKENS)]

_STANDARD = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_EXTRA = ("top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos")


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    token_ids: TokenIds | None = None
    logprobs: msgspec.Raw = msgspec.Raw()
    finish_reason: str | None = None
    stop_reason: Any = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice | None] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: Any = None


# Some servers send numbers as text.
_events = msgspec.json.Decoder(_Event, strict=False)
_usages = msgspec.json.Decoder(_Usage | None, strict=False)
_logprobs = msgspec.json.Decoder(_Logprobs | None, strict=False)
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
        asked = [count for count in (sampling.logprobs, sampling.prompt_logprobs) if count is not None]
        if asked:
            fields |= {"logprobs": max(asked), "return_tokens_as_token_ids": True}
        if sampling.prompt_logprobs is not None:
            fields |= {"echo": True}  # vLLM streams them in no other way
        return msgspec.json.encode(fields | _routing_fields(request))

    def reader(self, request: EngineRequest) -> CompletionReader:
        """Return what reads the events of the response."""
        prompt = request.tokens if request.sampling.prompt_logprobs is not None else b""
        return CompletionReader(None, request.sampling, echoed=prompt)


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
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(sampling, name) is not None:
                raise InvalidRequestError("this server does not tell token ids", field=name)
        ids = list(unpack(request.tokens))
        fields = _fields(self._model, ids if self._ids else prompt_text(self._text, ids), sampling)
        extra = {name: getattr(sampling, name) for name in _EXTRA}
        fields |= {name: value for name, value in extra.items() if value != getattr(_defaults, name)}
        return msgspec.json.encode(fields)

    def reader(self, request: EngineRequest) -> CompletionReader:
        """Return what reads the events of the response."""
        return CompletionReader(Retokenizer(self._text), request.sampling)


class CompletionReader:
    """Reads the events of one response.

    The last delta comes with `[DONE]`, because the server sends the usage, and so the cached tokens, after the finish
    reason.
    """

    def __init__(self, retokenizer: Retokenizer | None, sampling: SamplingParams, *, echoed: bytes = b"") -> None:
        """The first log-probabilities are those of the packed tokens that are `echoed`, if any are."""
        self._retokenizer = retokenizer
        self._top = sampling.logprobs
        self._prompt_top = sampling.prompt_logprobs or 0
        self._echoed = echoed
        self._ending = Ending(sampling.token_limit)
        self._stop: int | None = None
        self._cached: int | None = None
        self._prompt: int | None = None
        self._counted: int | None = None

    def read(self, event: bytes) -> Delta | None:
        """Return the delta of an event, if it has one. Raises the error in it, or EngineError if it is malformed."""
        if event == DONE:
            self._ending.done()
            return self.end()
        message = decoded_event(event, _events)
        choice = message.choices[0] if message.choices else None
        if message.error or not (choice or message.usage):
            raise_error_in(event, sure=bool(message.error))
        self._count(message.usage)
        return self._read(choice) if choice else None

    def end(self) -> Delta | None:
        """Return the last delta if the stream may end here, or None if it broke off too early."""
        reason = self._ending.reason(self._counted)
        return (
            None if reason is None else Delta(b"", self._cached, reason, self._stop, None, self._counted, self._prompt)
        )

    def _count(self, raw: msgspec.Raw) -> None:
        """Take in the server's counts, of which the last are right. What makes no sense is left out."""
        usage = _usage(raw)
        if usage is not None and usage.prompt_tokens_details is not None:
            self._cached = _sensible(usage.prompt_tokens_details.cached_tokens, 0)
        if usage is not None and self._retokenizer is not None:
            self._prompt = _sensible(usage.prompt_tokens, 1) or self._prompt
            self._counted = _sensible(usage.completion_tokens, 1) or self._counted

    def _read(self, choice: _Choice) -> Delta | None:
        ids = self._token_ids(choice)
        reason = finish_reason(choice.finish_reason)
        self._ending.answered(len(ids), reason)
        if reason is not None:
            self._stop = choice.stop_reason if type(choice.stop_reason) is int else None
        prompt, logprobs = self._logprobs(choice, ids) if ids or self._echoed else (None, None)
        return Delta(pack(ids), logprobs=logprobs, prompt_logprobs=prompt) if ids or prompt else None

    def _token_ids(self, choice: _Choice) -> list[int]:
        if self._retokenizer is not None:
            return self._retokenizer.ids(choice.text or "")
        if choice.token_ids is None and choice.text:
            raise EngineError("the server sent text without token ids")
        return choice.token_ids or []

    def _logprobs(self, choice: _Choice, ids: list[int]) -> tuple[PromptLogprobs | None, Logprobs | None]:
        """Return those of the prompt, if they are in front, and those of these ids, where asked for."""
        if self._top is None and not self._echoed:
            return None, None
        prompt, self._echoed = list(unpack(self._echoed)), b""
        sent = decoded(choice.logprobs or b"null", _logprobs) or _Logprobs()
        values, tops = sent.token_logprobs or [], sent.top_logprobs or [None] * (len(prompt) + len(ids))
        if not len(values) == len(tops) == len(prompt) + len(ids):
            raise EngineError("the server sent tokens without their log-probabilities")
        split = len(prompt)
        before = (None, *_entries(prompt[1:], values[1:split], tops[1:split], self._prompt_top)) if prompt else None
        top = self._top
        return before, None if top is None else _entries(ids, values[split:], tops[split:], top)


def _entries(
    ids: Sequence[int], values: Sequence[float | None], tops: Sequence[dict[str, float] | None], most: int
) -> Logprobs:
    return tuple(
        TokenLogprob(id, 0.0 if logprob is None else logprob, _top(top or {}, most))
        for id, logprob, top in zip(ids, values, tops, strict=True)
    )


def _routing_fields(request: EngineRequest) -> dict[str, Any]:
    """Priority and cache salt under vLLM's names, if they are set: not every server takes them."""
    fields = {"priority": request.priority, "cache_salt": request.cache_salt}
    return {name: value for name, value in fields.items() if value}


def _fields(model: str, prompt: list[int] | str, sampling: SamplingParams) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(sampling, name) for name in _STANDARD}
    fields |= {"model": model, "prompt": prompt, "max_tokens": sampling.token_limit}
    fields |= {"stream": True, "stream_options": {"include_usage": True}}
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if sampling.logit_bias:
        fields["logit_bias"] = sampling.biases
    return fields


def _usage(raw: msgspec.Raw) -> _Usage | None:
    try:
        return _usages.decode(raw or b"null")
    except msgspec.MsgspecError:
        return None


def _sensible(count: int | None, least: int) -> int | None:
    return count if count is not None and least <= count <= MAX_TOKENS else None


def _top(entries: dict[str, float], count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most likely of tokens named "token_id:17"."""
    try:
        pairs = [(int(name.removeprefix("token_id:")), logprob) for name, logprob in entries.items()]
    except ValueError:
        raise EngineError("the server named tokens by their text") from None
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:count])
