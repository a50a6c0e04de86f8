"""Engines that compute one replica on several GPUs: tensor parallel within a stage, stages one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preble.errors import ConfigurationError


def parallel_options(options: Mapping[str, Any], devices: int, *, tensor: str, pipeline: str) -> dict[str, Any]:
    """Return the options with the one named `tensor` set so that all `devices` compute, if it is not given.

    `pipeline` names the option with the number of stages. Raises ConfigurationError if the product of both is not
    `devices`.
    """
    bound = dict(options)
    stages = bound.get(pipeline, 1)
    if not devices or not isinstance(stages, int) or stages < 1:
        return bound  # the engine checks its own option
    bound.setdefault(tensor, devices // stages)
    if bound[tensor] * stages != devices:
        raise ConfigurationError(f"devices: {devices} of them, and {tensor}={bound[tensor]}, {pipeline}={stages}")
    return bound
