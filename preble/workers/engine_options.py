"""What the engines of one cluster are given: the same for all, or one mapping for each worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from preble.errors import ConfigurationError

EngineOptions: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Options of all engines, or those of each worker in turn."""


def options_of_each(options: EngineOptions | None, workers: int) -> list[Mapping[str, Any]]:
    """Return those of each worker. Raises ConfigurationError naming the entry that is wrong."""
    if options is None or isinstance(options, Mapping):
        return [one_mapping(options or {})] * workers
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise ConfigurationError(f"engine_options: must be a mapping, or a list of them, not {options!r}")
    if len(options) != workers:
        raise ConfigurationError(f"engine_options: {len(options)} entries for {workers} workers")
    return [one_mapping(entry, f"entry {index}: ") for index, entry in enumerate(options)]


def options_of_another(options: EngineOptions | None, own: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return those of one more worker: its `own` ones, or those of all. Raises ConfigurationError if it has none."""
    if own is not None:
        return one_mapping(own)
    if options is None or isinstance(options, Mapping):
        return options or {}
    raise ConfigurationError("engine_options: the other workers have their own, so this one needs them")


def one_mapping(entry: object, where: str = "") -> Mapping[str, Any]:
    """Return the options of one engine. Raises ConfigurationError, which begins with `where`."""
    if not isinstance(entry, Mapping):
        raise ConfigurationError(f"engine_options: {where}must be a mapping, not {entry!r}")
    if not all(isinstance(name, str) for name in entry):
        raise ConfigurationError(f"engine_options: {where}its keys must be names of options")
    return entry
