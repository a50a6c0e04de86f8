"""`POST /v1/chat/completions`: from the body to what is asked of the cluster, and from its pieces to the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request

from preble.cluster.prompt import template_options
from preble.errors import InvalidRequestError
from preble.serve import bodies, chat_body, logprobs, sampling, sse
from preble.serve.answer import Ask, Piece, answer
from preble.serve.chat_body import ChatBody
from preble.serve.endpoint import Answer, Stream
from preble.serve.parsers import CallPart
from preble.serve.parsers.one_call import OneCall
from preble.serve.reading import Reading, reading
from preble.serve.response_format import form_of
from preble.serve.served import Served
from preble.serve.sessions import session
from preble.serve.tool_choice import ToolChoice, call_schema, tool_choice
from preble.serve.usage import usage
from preble.text import ChatTokenizer
from preble.types import RequestKeywords, SamplingParams, TokenLogprob, Usage

NAMES = {"prompt": "messages", "lora": "model", "tenant": "cache_salt", "json_schema": "response_format"}
"""What the cluster's arguments are called in a body."""


class Chat(msgspec.Struct, frozen=True):
    """A chat completion that is asked for: `model` is the name to answer with."""

    ask: Ask
    body: ChatBody
    model: str
    prompt_token_ids: list[int] | None = None


class Sample:
    """What one sample has said so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[tuple[str, list[str]]] = []
        self.logprobs: list[TokenLogprob] = []
        self.token_ids: list[int] = []
        self.end: Piece | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        said = piece.said
        self.text.append(said.text)
        self.reasoning.append(said.reasoning)
        for part in said.calls:
            if part.name is not None:
                self.calls.append((part.name, []))
            self.calls[part.index][1].append(part.arguments)
        self.logprobs += piece.chunk.logprobs or ()
        self.token_ids += piece.chunk.token_ids
        if piece.finish_reason is not None:
            self.end = piece


async def complete(served: Served, request: Request, raw: bytes) -> Answer | Stream:
    """Answer a request. Raises PrebleError and HttpError."""
    fields = bodies.fields(raw)
    chat = await read(served, fields, session(request.headers, fields))
    pieces = answer(served.cluster, chat.ask)
    if chat.body.stream:
        return Stream(_events(served, chat, pieces), sse.DONE)
    async with aclosing(pieces):
        return await _whole(served, chat, pieces)


async def read(served: Served, fields: Mapping[str, Any], session: str | None) -> Chat:
    """Return what the fields of a body ask for. Raises InvalidRequestError, and HttpError for another model."""
    chosen, others = sampling.split(fields)
    body = bodies.read(others, ChatBody, also=sampling.FIELDS)
    chat_body.check(body)
    model, lora = served.named(body.model)
    if body.logprobs:
        chosen["logprobs"] = body.top_logprobs or 0
    choice = tool_choice(body.tools, body.tool_choice)
    chosen.update(_forced_form(served, choice) if choice.forced else form_of(body.response_format))
    template_kwargs = _template_kwargs(body)
    read = _reading(served, body, choice, template_kwargs)
    if read.shows_special:
        chosen.setdefault("skip_special_tokens", False)
    options: RequestKeywords = {
        "session": session,
        "priority": body.priority,
        "tenant": body.cache_salt or "",
        "lora": lora,
        "tools": choice.shown,
        "chat_template_kwargs": template_kwargs or None,
        "add_special_tokens": body.add_special_tokens,
    }
    params = SamplingParams(max_tokens=body.limit, **chosen)
    names = {"json_schema": "tools"} if choice.forced else {}
    ask = Ask(prompt=body.messages, sampling=params, options=options, make_parser=read.make, names=names)
    return await _with_ids(served, ask, body, model) if body.return_token_ids else Chat(ask, body, model)


def _forced_form(served: Served, choice: ToolChoice) -> dict[str, Any]:
    """Return the form of an output that is a call. Raises InvalidRequestError if an engine cannot be held to it."""
    if not served.takes_schemas:
        raise InvalidRequestError("a call cannot be enforced by these engines: use auto", field="tool_choice")
    return {"json_schema": call_schema(choice.forced)}


def _reading(served: Served, body: ChatBody, choice: ToolChoice, template_kwargs: Mapping[str, Any]) -> Reading:
    if choice.forced:  # the output is the call and nothing else, so that it has no reasoning either
        return Reading(OneCall)
    return reading(served, template_kwargs, tools=bool(choice.shown), single=body.parallel_tool_calls is False)


async def _with_ids(served: Served, ask: Ask, body: ChatBody, model: str) -> Chat:
    """Return the chat with the token ids of its prompt, which are then what the cluster is asked to continue."""
    tokenizer = served.cluster.tokenizer
    if tokenizer is None:
        raise InvalidRequestError("the model has no tokenizer", field="return_token_ids")
    options = ask.options
    template = {**(options["chat_template_kwargs"] or {}), "tools": options["tools"]}
    ids: list[int] = await asyncio.to_thread(lambda: tokenizer.apply_chat_template(body.messages, **template))
    plain = {**options, "tools": None, "chat_template_kwargs": None, "add_special_tokens": None}
    sampling = msgspec.structs.replace(ask.sampling, max_tokens=body.limit)
    return Chat(msgspec.structs.replace(ask, prompt=ids, options=plain, sampling=sampling), body, model, ids)


def _template_kwargs(body: ChatBody) -> dict[str, Any]:
    given = {
        name: getattr(body, name)
        for name in ("reasoning_effort", "documents", "add_generation_prompt", "continue_final_message")
        if getattr(body, name) is not None
    }
    return {**given, **template_options(body.chat_template_kwargs)}


async def _whole(served: Served, chat: Chat, pieces: AsyncIterator[Piece]) -> Answer:
    samples = [Sample() for _ in range(chat.ask.sampling.n)]
    request_id = ""
    async for piece in pieces:
        samples[piece.chunk.index].add(piece)
        request_id = piece.chunk.request_id
    body = _head(request_id, chat, "chat.completion")
    body["choices"] = [_choice(index, sample, chat, served) for index, sample in enumerate(samples)]
    body["usage"] = usage(served.cluster, request_id, _usages(samples))
    return Answer(body, headers={"x-request-id": request_id})


def _choice(index: int, sample: Sample, chat: Chat, served: Served) -> dict[str, Any]:
    assert sample.end is not None
    chunk = sample.end.chunk
    text, reasoning = "".join(sample.text), "".join(sample.reasoning)
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if sample.calls else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if sample.calls:
        message["tool_calls"] = [
            {
                "id": call_id(chunk.request_id, index, call),
                "type": "function",
                "function": {"name": name, "arguments": "".join(arguments)},
            }
            for call, (name, arguments) in enumerate(sample.calls)
        ]
    shown = logprobs.of_chat(sample.logprobs, served.cluster.tokenizer) if chat.body.logprobs else None
    choice = {"index": index, "message": message, "logprobs": shown, "finish_reason": sample.end.finish_reason}
    choice["stop_reason"] = chunk.stop_reason
    return {**choice, "token_ids": sample.token_ids} if chat.body.return_token_ids else choice


async def _events(served: Served, chat: Chat, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
    begun: set[int] = set()
    usages: list[Usage] = []
    tokenizer = served.cluster.tokenizer
    head: dict[str, Any] = {}
    request_id = ""
    async with aclosing(pieces):
        async for piece in pieces:
            chunk = piece.chunk
            if not begun:
                request_id = chunk.request_id
                head = _head(chunk.request_id, chat, "chat.completion.chunk")
            choice = _delta(piece, chat, tokenizer, first=chunk.index not in begun)
            begun.add(chunk.index)
            if chunk.usage is not None:
                usages.append(chunk.usage)
            if choice is not None:
                yield sse.event({**head, "choices": [choice]})
    if chat.body.stream_options is not None and chat.body.stream_options.include_usage:
        yield sse.event({**head, "choices": [], "usage": usage(served.cluster, request_id, usages)})


def _delta(piece: Piece, chat: Chat, tokenizer: ChatTokenizer | None, *, first: bool) -> dict[str, Any] | None:
    """Return the choice of an event, None for a piece that says nothing."""
    chunk, said = piece.chunk, piece.said
    delta: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if said.text:
        delta["content"] = said.text
    if said.reasoning:
        delta["reasoning_content"] = said.reasoning
    if said.calls:
        delta["tool_calls"] = [_call(part, chunk.request_id, chunk.index) for part in said.calls]
    choice: dict[str, Any] = {"index": chunk.index, "delta": delta, "finish_reason": piece.finish_reason}
    if chat.body.logprobs:
        choice["logprobs"] = logprobs.of_chat(chunk.logprobs or (), tokenizer)
    if chat.body.return_token_ids:
        choice["token_ids"] = chunk.token_ids
    if piece.finish_reason is not None:
        choice["stop_reason"] = chunk.stop_reason
    return choice if delta or piece.finish_reason or chunk.logprobs or chat.body.return_token_ids else None


def _call(part: CallPart, request_id: str, sample: int) -> dict[str, Any]:
    if part.name is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    return {
        "index": part.index,
        "id": call_id(request_id, sample, part.index),
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }


def call_id(request_id: str, sample: int, call: int) -> str:
    """Return the id of a call, which no other call of the cluster has."""
    return f"call_{request_id}_{sample}_{call}"


def _head(request_id: str, chat: Chat, kind: str) -> dict[str, Any]:
    head = {"id": f"chatcmpl-{request_id}", "object": kind, "created": int(time.time()), "model": chat.model}
    return {**head, "prompt_token_ids": chat.prompt_token_ids} if chat.prompt_token_ids is not None else head


def _usages(samples: list[Sample]) -> list[Usage]:
    return [sample.end.chunk.usage for sample in samples if sample.end is not None and sample.end.chunk.usage]
