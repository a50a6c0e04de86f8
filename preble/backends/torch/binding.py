"""From a worker's GPUs and threads to the options of the torch engine. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preble.errors import ConfigurationError


def bind(options: Mapping[str, Any], devices: int, threads: int) -> dict[str, Any]:
    """Return the options with the device and the threads filled in. Raises ConfigurationError for several GPUs."""
    if devices > 1:
        raise ConfigurationError(f"devices: the torch engine computes on one device, not on {devices}")
    bound: dict[str, Any] = {"device": "cuda"} if devices else {}
    if threads:
        bound["threads"] = threads
    return bound | dict(options)
