"""Server-sent events, as OpenAI's and Anthropic's clients read them."""

from __future__ import annotations

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


def event(data: Any, name: str | None = None) -> bytes:
    """Return the bytes of one event."""
    encoded = _encoder.encode(data)
    return b"data: %b\n\n" % encoded if name is None else b"event: %b\ndata: %b\n\n" % (name.encode(), encoded)
