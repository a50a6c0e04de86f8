"""Fields that engines take and a protocol has not: they are passed on under the names of chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PASSED = frozenset(
    {
        "seed",
        "stop",
        "stop_token_ids",
        "min_tokens",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "ignore_eos",
        "chat_template_kwargs",
        "session_params",
        "priority",
    }
)


def split(fields: Mapping[str, Any], own: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the protocol itself, which are its `own` or nobody's, and those that are passed on."""
    passed = {name: value for name, value in fields.items() if name in PASSED - own}
    return {name: value for name, value in fields.items() if name not in passed}, passed
