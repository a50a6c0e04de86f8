"""Public traces as workloads: one function per format, and `FORMATS` by name. Files may be compressed by gzip.

Traces have lengths, times and prefix ids, no text: ids become segments. Times are divided by `speed`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from preble.errors import ConfigurationError
from preble.simulate.request import Request
from preble.simulate.traces.clients import servegen
from preble.simulate.traces.lengths import burstgpt, lengths
from preble.simulate.traces.prefixes import agents, blocks, segments

FORMATS: dict[str, Callable[..., list[Request]]] = {
    "segments": segments,
    "blocks": blocks,
    "bailian": partial(blocks, block=16, unit=1.0, jitter=0.0),
    "agents": agents,
    "lengths": lengths,
    "burstgpt": burstgpt,
    "servegen": servegen,
}
"""`blocks` is Mooncake's, `bailian` Qwen-Bailian's, `lengths` Azure's."""


def load(path: str | Path, format: str, *, speed: float = 1.0) -> list[Request]:
    """Read a trace. Raises ConfigurationError for an unknown format or a file that is not of it, OSError."""
    if format not in FORMATS:
        raise ConfigurationError(f"format: unknown {format!r}, one of {', '.join(FORMATS)}")
    try:
        return FORMATS[format](path, speed=speed)
    except (KeyError, ValueError, TypeError, msgspec.DecodeError, csv.Error, EOFError) as error:
        raise ConfigurationError(f"{path}: not a trace in the format {format!r} ({error!r})") from error
