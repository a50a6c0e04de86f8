"""Workloads from a caller's own function, and in one line what is wrong with it."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from preble.errors import ConfigurationError
from preble.simulate.request import Request


def generated(path: str, options: Mapping[str, Any]) -> list[Request]:
    """Return the requests that `module:function` makes; modules of the current folder are found.

    Raises ConfigurationError if it cannot be imported, raises anything, or returns anything else than requests.
    """
    try:
        made = _function(path)(**options)
        requests: list[Any] = list(made) if isinstance(made, Iterable) else [made]
    except ConfigurationError:
        raise
    except Exception as error:  # it may raise whatever it likes
        raise ConfigurationError(f"workload: {path} raised {_in_one_line(error)}") from error
    wrong = next((request for request in requests if not isinstance(request, Request)), None)
    if wrong is not None:
        raise ConfigurationError(f"workload: {path} returned {type(wrong).__name__}, not preble.simulate.Request")
    return requests


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current folder: `python -m preble` has it, the command `preble` has not
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"workload: {path!r} is not module:function ({error})") from error
    return found


def _in_one_line(error: Exception) -> str:
    """Return the error's kind, what it says, and where the caller's code raised it."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    if place.filename == __file__ or isinstance(error, SyntaxError):  # the call itself; or it says so already
        return said
    return f"{said} ({Path(place.filename).name}, line {place.lineno})"
