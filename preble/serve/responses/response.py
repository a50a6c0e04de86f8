"""The response object: what was asked, echoed, and what came of it."""

from __future__ import annotations

from typing import Any

import msgspec

from preble.serve.responses.body import ResponseBody
from preble.serve.responses.output import Event
from preble.types import Usage

_ECHOED = (
    "instructions",
    "previous_response_id",
    "max_output_tokens",
    "temperature",
    "top_p",
    "user",
    "prompt_cache_key",
    "safety_identifier",
)


def begun(body: ResponseBody, *, id: str, created_at: int, model: str) -> Event:
    """Return the object of a response that has no output yet; times are Unix seconds."""
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": body.tools or [],
        "text": {"format": {"type": "text"}, **_given(body.text)},
        "reasoning": {"effort": None, "summary": None, **_given(body.reasoning)},
        "truncation": "disabled",
        "top_logprobs": body.top_logprobs or 0,
        "metadata": body.metadata or {},
        "service_tier": "default",
        "store": body.store is not False,
        **{name: getattr(body, name) for name in _ECHOED},
    }


def ended(response: Event, output: list[Event], reason: str | None, usage: Event | None) -> Event:
    """Return the object of a response that ended. It is incomplete if the limit on tokens or an abort ended it."""
    incomplete = {"length": "max_output_tokens", "abort": "abort"}.get(reason or "")
    return {
        **response,
        "status": "incomplete" if incomplete else "completed",
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "output": output,
        "usage": usage,
    }


def failed(response: Event, output: list[Event], code: str, message: str) -> Event:
    """Return the object of a response that an error ended, with the output items that were whole by then."""
    return {**response, "status": "failed", "output": output, "error": {"code": code, "message": message}}


def usage_fields(usage: Usage, reasoning_tokens: int) -> Event:
    """Return token counts as the protocol has them. `reasoning_tokens` are those of `output_tokens` that reason."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }


def _given(part: msgspec.Struct | None) -> dict[str, Any]:
    return {} if part is None else msgspec.to_builtins(part)
