"""The body of `POST /v1/responses`: its fields, none of which is dropped."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from preble.errors import InvalidRequestError

Included = Literal["reasoning.encrypted_content", "message.output_text.logprobs"]


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much the model reasons. Reasoning is returned as it is, so a `summary` of it adds nothing."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class TextConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The form of the text: `format` is `text`, `json_object` or `json_schema`."""

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events are not padded, which `include_obfuscation` would ask for."""

    include_obfuscation: bool = False


class ResponseBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request: OpenAI's fields. Those of `serve.spelling`, which engines take, stand beside them in the JSON."""

    model: str = ""
    input: str | list[dict[str, Any]] = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Included] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h", "in-memory"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    background: bool | None = None


OWN = frozenset(ResponseBody.__struct_fields__)


def check(body: ResponseBody) -> None:
    """Raise InvalidRequestError for what a type does not say: empty input, background, metadata beyond its bounds."""
    if not body.input:
        raise InvalidRequestError("must be text or a list of items, not empty", field="input")
    if body.background:
        raise InvalidRequestError("responses are not made in the background", field="background")
    if body.stream_options and body.stream_options.include_obfuscation:
        raise InvalidRequestError("events are not padded", field="stream_options.include_obfuscation")
    pairs = body.metadata or {}
    if len(pairs) > 16 or any(len(name) > 64 or len(value) > 512 for name, value in pairs.items()):
        raise InvalidRequestError("at most 16 pairs: names of 64 characters, values of 512", field="metadata")
