"""Copies of prefixes: computed by a worker in the background, before a request has to wait for them there."""

from __future__ import annotations

import msgspec

COPY_PRIORITY = (1 << 31) - 1
"""The priority of the requests that compute copies: behind all others."""


class Copy(msgspec.Struct, frozen=True):
    """Let worker `target` compute the prefix `tokens` (packed int32)."""

    tokens: bytes
    target: str
