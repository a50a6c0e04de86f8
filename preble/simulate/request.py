"""What a workload is made of: requests whose prompts are lists of segments, turned into tokens when they are sent."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

FIRST_TOKEN = 3
"""The lowest token of a segment: those below stand for padding, beginning and end."""
VOCABULARY = 32_000
"""Tokens of segments are below this; engines that take them need a vocabulary at least as large."""

Segment = tuple[int, int]
"""The first so many tokens of the segment of that id."""

_BYTES_KEPT = 64 << 20
_NOTHING: Mapping[int, bytes] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a workload. Two prompts share a prefix as far as their `segments` agree.

    With an `arrival`, in seconds, it is sent then. Without one it is sent `gap` seconds after all requests of the
    previous `turn` of its session have ended. Where a later prompt of the session has `output_segment` among its
    segments, the tokens generated for this request stand there. The engine will generate `output_tokens`; the scheduler
    knows only `max_tokens`, by default the longest output of the workload. If `cancel_after` is given, the user gives
    up after so many seconds.
    """

    segments: tuple[Segment, ...]
    output_tokens: int
    arrival: float | None = None
    session: str | None = None
    turn: int = 0
    gap: float = 0.0
    output_segment: int | None = None
    max_tokens: int | None = None
    cancel_after: float | None = None

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return sum(count for _, count in self.segments)

    def prompt(self, outputs: Mapping[int, bytes] = _NOTHING) -> bytes:
        """Return the prompt, packed int32; `outputs` are the real tokens of output segments."""
        tokens = _recent.tokens
        return b"".join([outputs.get(segment[0]) or tokens(segment) for segment in self.segments])


class _Recent:
    """Segments made lately, so that none is made for every request: at most twice `_BYTES_KEPT` bytes of them."""

    def __init__(self) -> None:
        self._new: dict[Segment, bytes] = {}
        self._old: dict[Segment, bytes] = {}
        self._size = 0

    def tokens(self, segment: Segment) -> bytes:
        found = self._new.get(segment)
        if found is None:
            found = self._new[segment] = self._old.get(segment) or _mix(*segment)
            self._size += len(found)
            if self._size > _BYTES_KEPT:
                self._old, self._new, self._size = self._new, {}, 0
        return found


_recent = _Recent()


def segment_tokens(segment: int, count: int) -> bytes:
    """Return the first `count` tokens of a segment, packed int32: a hash of the segment and the position."""
    return _recent.tokens((segment, count))


def _mix(segment: int, count: int) -> bytes:
    # splitmix64: any position without those before it, so that numpy makes all at once.
    start = segment * 0xD1B54A32D192ED03 & (1 << 64) - 1
    mixed = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(start)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    tokens = FIRST_TOKEN + (mixed >> np.uint64(33)) % np.uint64(VOCABULARY - FIRST_TOKEN)
    return tokens.astype("<i4").tobytes()
