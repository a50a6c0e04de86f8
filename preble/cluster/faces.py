"""The ways into a cluster that stand above it are imported when they are used, with the packages that they need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from preble.errors import ConfigurationError


def face(module: str, *, extra: str) -> ModuleType:
    """Import a module of this package that needs the packages of `extra`. Raises ConfigurationError without them."""
    try:
        return import_module(f"preble.{module}")
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed: pip install 'preble[{extra}]'") from None
