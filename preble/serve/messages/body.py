"""The body of `POST /v1/messages`: its fields, none of which is dropped."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from preble.errors import InvalidRequestError

Block = dict[str, Any]


class CacheControl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hint that a prefix will come again. Workers keep every prefix as long as they have room, so it adds nothing."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the caller runs. Tools that a server runs are refused."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`any` and `tool` make the answer a call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the model reasons, where its template can be told. `budget_tokens` is read; `max_tokens` bounds all."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "full"] | None = None


class Format(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON schema of the text."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of the text, and how much the model reasons."""

    format: Format | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`user_id` is the session, if no header names one."""

    user_id: str | None = None


class MessageBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request: Anthropic's fields. Those of `serve.spelling`, which engines take, stand beside them in the JSON."""

    messages: list[Turn]
    model: str = ""
    max_tokens: int | None = None
    system: str | list[Block] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    metadata: Metadata | None = None
    cache_control: CacheControl | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


OWN = frozenset({*MessageBody.__struct_fields__, "stop"})
"""What is not passed on: `stop` has a name of its own here."""


def check(body: MessageBody, *, counted: bool) -> None:
    """Raise InvalidRequestError for what a type does not say. Where tokens are `counted`, nothing is generated."""
    if body.max_tokens is None and not counted:
        raise InvalidRequestError("is required: the most tokens of the answer", field="max_tokens")
    if not body.messages:
        raise InvalidRequestError("must not be empty", field="messages")
