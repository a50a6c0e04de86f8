"""`POST /v1/completions`: text or token ids, one prompt or several, continued; `echo` returns the prompt too."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request

from preble.errors import InvalidRequestError
from preble.serve import bodies, logprobs, sampling, sse
from preble.serve.answer import Ask, Piece, answer
from preble.serve.chat_body import StreamOptions, check_stream
from preble.serve.endpoint import Answer, Stream
from preble.serve.merged import merged
from preble.serve.served import Served
from preble.serve.sessions import session
from preble.serve.usage import total
from preble.text import ChatTokenizer
from preble.types import MAX_LOGPROBS, MOST_TOKENS, PromptLogprobs, RequestKeywords, SamplingParams, TokenLogprob, Usage

NAMES = {"lora": "model", "tenant": "cache_salt", "prompt_logprobs": "logprobs"}
"""What the cluster's arguments are called in a body."""
_DEFAULT = 16
"""`max_tokens` if it is not given, as OpenAI's and vLLM's servers have it."""
_MOST_PROMPTS = 1024


class CompletionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All but the fields of sampling. With `echo`, `max_tokens` may be 0: the answer is then the prompt alone."""

    prompt: str | list[str | int | list[int]]
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)] = _DEFAULT
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool = False
    best_of: int | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    priority: int = 0
    cache_salt: str | None = None
    prompt_cache_key: str | None = None
    session_params: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    service_tier: Literal["auto", "default"] | None = None


class Part:
    """One sample of one prompt, as far as it has come."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.token_ids: list[int] = []
        self.end: Piece | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.text.append(piece.said.text)
        self.logprobs += piece.chunk.logprobs or ()
        self.token_ids += piece.chunk.token_ids
        self.end = piece if piece.finish_reason is not None else self.end


class Completions(msgspec.Struct, frozen=True):
    """What is asked for: a request for each prompt. `texts` and `ids` are the prompts themselves, where echoed."""

    body: CompletionBody
    model: str
    asks: list[Ask]
    texts: list[str]
    ids: list[list[int]]

    @property
    def samples(self) -> int:
        """How many samples each prompt has."""
        return self.asks[0].sampling.n


async def complete(served: Served, request: Request, raw: bytes) -> Answer | Stream:
    """Answer a request. Raises PrebleError and HttpError."""
    fields = bodies.fields(raw)
    asked = read(served, fields, session(request.headers, fields))
    pieces = merged([answer(served.cluster, ask) for ask in asked.asks])
    if asked.body.stream:
        return Stream(_events(served, asked, pieces), sse.DONE)
    async with aclosing(pieces):
        return await _whole(served, asked, pieces)


def read(served: Served, fields: Mapping[str, Any], session: str | None) -> Completions:
    """Return what the fields of a body ask for. Raises InvalidRequestError, and HttpError for another model."""
    chosen, others = sampling.split(fields)
    body = bodies.read(others, CompletionBody, also=sampling.FIELDS)
    prompts = _prompts(body.prompt)
    params = SamplingParams(**chosen, **_limits(body))
    _check(body, params)
    model, lora = served.named(body.model)
    options: RequestKeywords = {
        "session": session,
        "priority": body.priority,
        "tenant": body.cache_salt or "",
        "lora": lora,
    }
    asks = [Ask(prompt=prompt, sampling=params, options=_for(prompt, options, body)) for prompt in prompts]
    ids = [_ids(served, prompt, body) for prompt in prompts] if body.echo or body.return_token_ids else []
    texts = [_text(served, prompt) for prompt in prompts] if body.echo else []
    return Completions(body, model, asks, texts, ids)


def _prompts(given: Any) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidRequestError("must not be empty", field="prompt")
    kinds = {type(each) for each in given}
    if len(kinds) > 1:
        raise InvalidRequestError("is a mixture of texts and token ids", field="prompt")
    if kinds == {int}:
        return [list(given)]
    if len(given) > _MOST_PROMPTS:
        raise InvalidRequestError(f"{len(given)} prompts, at most {_MOST_PROMPTS}", field="prompt")
    return list(given)


def _limits(body: CompletionBody) -> dict[str, Any]:
    shown = {"logprobs": body.logprobs, "prompt_logprobs": body.logprobs if body.echo else None}
    return {"max_tokens": max(body.max_tokens, 1), **{name: k for name, k in shown.items() if k is not None}}


def _check(body: CompletionBody, params: SamplingParams) -> None:
    check_stream(body.stream, body.stream_options)
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequestError("must be at least 1, without echo", field="max_tokens")
    if body.best_of is not None and body.best_of != params.n:
        raise InvalidRequestError("must be the same as n", field="best_of")
    if body.stream and body.echo and body.logprobs is not None:
        raise InvalidRequestError("with echo, log-probabilities come with a whole answer only", field="stream")


def _for(prompt: str | list[int], options: RequestKeywords, body: CompletionBody) -> RequestKeywords:
    return {**options, "add_special_tokens": body.add_special_tokens} if isinstance(prompt, str) else options


def _ids(served: Served, prompt: str | list[int], body: CompletionBody) -> list[int]:
    if not isinstance(prompt, str):
        return prompt
    tokenizer = served.cluster.tokenizer
    special = body.add_special_tokens is not False
    return [] if tokenizer is None else tokenizer.encode(prompt, add_special_tokens=special)


def _text(served: Served, prompt: str | list[int]) -> str:
    tokenizer = served.cluster.tokenizer
    if isinstance(prompt, str):
        return prompt
    return "" if tokenizer is None else tokenizer.decode(prompt)


async def _whole(served: Served, asked: Completions, pieces: AsyncGenerator[tuple[int, Piece], None]) -> Answer:
    parts = [[Part() for _ in range(asked.samples)] for _ in asked.asks]
    prompt_logprobs: dict[int, PromptLogprobs] = {}
    first_id = ""
    async for prompt, piece in pieces:
        parts[prompt][piece.chunk.index].add(piece)
        if piece.chunk.prompt_logprobs is not None:
            prompt_logprobs[prompt] = piece.chunk.prompt_logprobs
        first_id = piece.chunk.request_id if prompt == 0 else first_id
    body = _head(first_id, asked)
    body["choices"] = [
        _choice(served, asked, prompt, sample, part, prompt_logprobs.get(prompt, ()))
        for prompt, samples in enumerate(parts)
        for sample, part in enumerate(samples)
    ]
    body["usage"] = total(served.cluster, first_id, [_usages(samples) for samples in parts])
    return Answer(body, headers={"x-request-id": first_id})


def _choice(
    served: Served, asked: Completions, prompt: int, sample: int, part: Part, before: PromptLogprobs
) -> dict[str, Any]:
    body = asked.body
    assert part.end is not None
    if body.max_tokens == 0:  # what was generated was not asked for
        part.text, part.token_ids, part.logprobs = [], [], []
    shown, text = None, "".join(part.text)
    if body.logprobs is not None:
        entries, ids = [*before, *part.logprobs], [*(asked.ids[prompt] if body.echo else ()), *part.token_ids]
        shown = logprobs.of_completion(entries, ids, _words(served, body))
    choice: dict[str, Any] = {
        "index": prompt * asked.samples + sample,
        "text": asked.texts[prompt] + text if body.echo else text,
        "logprobs": shown,
        "finish_reason": "length" if body.max_tokens == 0 else part.end.finish_reason,
        "stop_reason": part.end.chunk.stop_reason,
    }
    if body.return_token_ids:
        choice |= {"token_ids": part.token_ids, "prompt_token_ids": asked.ids[prompt]}
    return choice


async def _events(
    served: Served, asked: Completions, pieces: AsyncGenerator[tuple[int, Piece], None]
) -> AsyncGenerator[bytes, None]:
    begun: dict[int, int] = {}
    usages: list[list[Usage]] = [[] for _ in asked.asks]
    head: dict[str, Any] = {}
    first_id = ""
    async with aclosing(pieces):
        async for prompt, piece in pieces:
            if not begun:
                head = _head(piece.chunk.request_id, asked)
            first_id = piece.chunk.request_id if prompt == 0 else first_id
            index = prompt * asked.samples + piece.chunk.index
            choice = _delta(served, asked, prompt, piece, begun.get(index, -1))
            begun[index] = max(begun.get(index, 0), 0) + len(piece.said.text)
            if piece.chunk.usage is not None:
                usages[prompt].append(piece.chunk.usage)
            yield sse.event({**head, "choices": [choice]})
    if asked.body.stream_options is not None and asked.body.stream_options.include_usage:
        yield sse.event({**head, "choices": [], "usage": total(served.cluster, first_id, usages)})


def _delta(served: Served, asked: Completions, prompt: int, piece: Piece, offset: int) -> dict[str, Any]:
    """Return the choice of an event; `offset` counts the characters before it, and is -1 for a sample's first one."""
    chunk, body = piece.chunk, asked.body
    echoed = asked.texts[prompt] if body.echo and offset < 0 else ""
    choice: dict[str, Any] = {
        "index": prompt * asked.samples + chunk.index,
        "text": echoed if body.max_tokens == 0 else echoed + piece.said.text,
        "finish_reason": piece.finish_reason,
    }
    if body.logprobs is not None:
        words = _words(served, body)
        choice["logprobs"] = logprobs.of_completion(chunk.logprobs or (), chunk.token_ids, words, max(offset, 0))
    if body.return_token_ids:
        choice["token_ids"] = chunk.token_ids
        if offset < 0:
            choice["prompt_token_ids"] = asked.ids[prompt]
    return choice


def _words(served: Served, body: CompletionBody) -> ChatTokenizer | None:
    """Return what names the tokens in log-probabilities; None names them by their ids, as `token_id:7`."""
    return None if body.return_tokens_as_token_ids else served.cluster.tokenizer


def _head(request_id: str, asked: Completions) -> dict[str, Any]:
    created = int(time.time())
    return {"id": f"cmpl-{request_id}", "object": "text_completion", "created": created, "model": asked.model}


def _usages(parts: list[Part]) -> list[Usage]:
    return [part.end.chunk.usage for part in parts if part.end is not None and part.end.chunk.usage]
