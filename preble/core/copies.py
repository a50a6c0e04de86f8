"""Copies of prefixes: a worker computes them in the background, so that requests find them cached there."""

from __future__ import annotations

import msgspec

COPY_PRIORITY = (1 << 31) - 1
"""The priority of the requests that compute copies. All others go first."""


class Copy(msgspec.Struct, frozen=True):
    """Let worker `target` compute the prefix `tokens` (packed int32)."""

    tokens: bytes
    target: str
