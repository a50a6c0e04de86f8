"""Which conversation a request is of: the keys that clients and routers use, the first of which counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADERS = (
    "x-session-id",
    "x-smg-routing-key",
    "x-dynamo-session-id",
    "x-correlation-id",
    "x-litellm-session-id",
)
"""prime-rl, NeMo Gym and vllm-router; slime and SGLang's gateway; Dynamo; aiperf; litellm."""
_FIELDS = (
    ("prompt_cache_key",),
    ("metadata", "session_id"),
    ("session_params", "session_id"),
    ("user",),
    ("metadata", "user_id"),
)
_LONGEST = 256


def session(headers: Mapping[str, str], fields: Mapping[str, Any]) -> str | None:
    """Return the name of the conversation, None if nothing names it. Names longer than 256 characters are none."""
    for name in HEADERS:
        if fits(headers.get(name)):
            return headers[name]
    for path in _FIELDS:
        value: Any = fields
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if fits(value):
            return str(value)
    return None


def fits(name: object) -> bool:
    """Whether it may name a session: printable text of 1 to 256 characters."""
    return isinstance(name, str) and 0 < len(name) <= _LONGEST and name.isprintable()
