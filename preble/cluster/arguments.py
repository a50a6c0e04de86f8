"""What describes a cluster: checked when it is made, with errors that name the argument."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypedDict, cast

from preble.backends import Engine, find_backend
from preble.cluster.driver import OnEvent
from preble.core.cost import CostModel
from preble.core.policy import Policy
from preble.errors import ConfigurationError, ModelError, nearest
from preble.transport.schema import Ticket
from preble.workers.worker import construct, make_engine

_OF_WORKERS = ("backend", "cpus", "devices", "processes", "share_devices", "threads", "workers")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "config.json")


class ConnectKeywords(TypedDict, total=False):
    """The keywords of `PrebleCluster` that `connect` takes too: those that do not describe workers."""

    policy: str | Policy
    cost: CostModel | str | None
    seed: int | None
    max_in_flight: int
    worker_wait: float
    idle_timeout: float
    on_event: OnEvent | None
    start_timeout: float
    close_grace: float
    decision_log: str | os.PathLike[str] | None


def folder(model: str | os.PathLike[str] | None) -> str | None:
    """Return a model's path with `~` expanded."""
    return None if model is None else os.path.expanduser(model)


def engine_maker(backend: str | Callable[..., Engine]) -> Callable[[Ticket], Engine]:
    """Return what makes an engine of this event loop."""
    return make_engine if isinstance(backend, str) else partial(construct, backend)


def class_name(backend: Callable[..., Engine], processes: bool) -> str:
    """Return the name of an engine's class, "module:Class". Raises ConfigurationError if a process would need it."""
    if processes:
        raise ConfigurationError('backend: a process needs a name or "module:Class"; a class is for processes=False')
    return f"{backend.__module__}:{getattr(backend, '__qualname__', repr(backend))}"


def check_model(model: object, backend: str) -> None:
    """Raise ConfigurationError if the engine needs a model and there is none."""
    if model is None and find_backend(backend).needs_model:
        raise ConfigurationError(f"model: the {backend} engine needs the path of a model")


def check_seed(seed: object) -> None:
    """Raise ConfigurationError unless it is None or a number that fits into 64 bits."""
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if seed is not None and not (whole and -(1 << 63) <= cast(int, seed) < 1 << 63):
        raise ConfigurationError(f"seed: must be a 64-bit integer or None, not {seed!r}")


def check_tokenizer(model: str | None) -> None:
    """Raise ModelError if there is none: what a server needs a while to answer is not asked in vain."""
    path = None if model is None else Path(model)
    if path is not None and not path.exists():
        raise ModelError(f"model: {path}: no such folder; connect takes the one with the tokenizer, or none")
    if path is not None and path.is_dir() and not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"model: {path}: a folder without {', '.join(_TOKENIZER_FILES)}")


def check_numbers(**numbers: tuple[int, int]) -> None:
    """Raise ConfigurationError unless each is an integer of at least what comes with it."""
    for name, (value, least) in numbers.items():
        if not isinstance(value, int) or not least <= value <= 1 << 20:
            raise ConfigurationError(f"{name}: must be an integer of at least {least}, not {value!r}")


def check_seconds(**numbers: tuple[float, bool]) -> None:
    """Each with whether it may be 0. Raises ConfigurationError."""
    for name, (value, zero) in numbers.items():
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not known or not (value > 0 or (zero and value == 0)):
            raise ConfigurationError(f"{name}: must be a number of seconds, not {value!r}")


def check_callback(name: str, function: object) -> None:
    """Raise ConfigurationError for what cannot be called, and for what would have to be awaited."""
    if function is not None and (not callable(function) or inspect.iscoroutinefunction(function)):
        raise ConfigurationError(f"{name}: must be a function that is called and not awaited, not {function!r}")


def check_known(options: Iterable[str]) -> None:
    """Raise ConfigurationError for an option that `connect` does not have."""
    for name in options:
        if name in _OF_WORKERS:
            raise ConfigurationError(f"{name}: is for clusters that start workers")
        if name not in ConnectKeywords.__annotations__:
            raise ConfigurationError(f"{name}: unknown option{nearest(name, ConnectKeywords.__annotations__)}")


def check_unbound(cpus: object, devices: object) -> None:
    """Raise ConfigurationError for what only processes can be bound to."""
    if cpus is not None or devices is not None:
        raise ConfigurationError("devices, cpus: are for clusters that start workers")
