"""The body of `POST /v1/chat/completions`: OpenAI's fields and those that engines add, none of which is dropped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from preble.errors import InvalidRequestError
from preble.serve import bodies
from preble.types import MAX_LOGPROBS, MOST_TOKENS

Tokens = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With `include_usage`, a last event without choices has the usage. Events are not padded."""

    include_usage: bool = False
    include_obfuscation: bool = False
    continuous_usage_stats: bool = False


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the caller runs; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class _Tools(msgspec.Struct):
    tools: list[Tool]


class ChatBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All but the fields of sampling, which are those of `SamplingParams`."""

    messages: list[dict[str, Any]]
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool = False
    priority: int = 0
    cache_salt: str | None = None
    prompt_cache_key: str | None = None
    session_params: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    store: bool | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer, None for what is left of the context."""
        return self.max_completion_tokens or self.max_tokens


def check(body: ChatBody) -> None:
    """Raise InvalidRequestError for what a type does not say."""
    if not body.messages:
        raise InvalidRequestError("must not be empty", field="messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequestError("needs logprobs to be true", field="top_logprobs")
    if body.store:
        raise InvalidRequestError("nothing is stored", field="store")
    if body.cache_salt == "":
        raise InvalidRequestError("must not be empty", field="cache_salt")
    check_stream(body.stream, body.stream_options)
    bodies.read({"tools": body.tools or []}, _Tools)


def check_stream(stream: bool, options: StreamOptions | None) -> None:
    """Raise InvalidRequestError for options of a stream where there is none, or that it does not have."""
    if options is None:
        return
    if not stream:
        raise InvalidRequestError("needs stream to be true", field="stream_options")
    if options.include_obfuscation:
        raise InvalidRequestError("events are not padded", field="stream_options.include_obfuscation")
    if options.continuous_usage_stats:
        raise InvalidRequestError("usage comes with the end", field="stream_options.continuous_usage_stats")
