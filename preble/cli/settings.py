"""A configuration file in TOML: the keyword arguments of a cluster and of its HTTP face, by their names."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from preble import ConfigurationError, PrebleCluster
from preble.core.cost import CostModel
from preble.errors import nearest

_LONGEST = 1 << 20
_CONNECTED = ("urls", "kv_events", "min_replicas", "api_key_env")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY = "PREBLE_API_KEY"
"""The environment variable with the token that clients must bring."""


class Cluster(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The arguments of `PrebleCluster`, or with `urls` those of `PrebleCluster.connect`.

    `api_key_env` names the environment variable with the key of these servers: secrets are in no file.
    """

    model: str | None = None
    backend: str | None = None
    workers: int | None = None
    policy: str | None = None
    engine_options: dict[str, Any] | list[dict[str, Any]] | None = None
    cost: str | CostModel | None = None
    threads: int | None = None
    cpus: list[list[int]] | None = None
    devices: list[list[int | str]] | None = None
    share_devices: bool | None = None
    seed: int | None = None
    max_in_flight: int | None = None
    worker_wait: float | None = None
    idle_timeout: float | None = None
    start_timeout: float | None = None
    close_grace: float | None = None
    decision_log: str | None = None
    processes: bool | None = None
    urls: list[str] | None = None
    kv_events: list[str] | None = None
    min_replicas: int | None = None
    api_key_env: str | None = None


class Http(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The arguments of `PrebleCluster.serve_http`. `api_key_env` names the variable with the token of clients."""

    host: str = "127.0.0.1"
    port: int = 8000
    grace: float | None = None
    max_body: int | None = None
    api_key_env: str | None = None
    served_model_name: str | list[str] | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    allowed_hosts: list[str] | None = None


class Settings(Cluster, kw_only=True):
    """A whole file: the arguments of the cluster, and a table `serve` with those of the HTTP face."""

    serve: Http = msgspec.field(default_factory=Http)

    def cluster(self) -> PrebleCluster:
        """Return the cluster, not started. Raises ConfigurationError, which names the argument."""
        given = {name: value for name in Cluster.__struct_fields__ if (value := getattr(self, name)) is not None}
        if "urls" not in given:
            for name in _CONNECTED:
                if name in given:
                    raise ConfigurationError(f"{name}: is for servers that run already: give their urls")
            return PrebleCluster(**given)
        key = secret(given.pop("api_key_env", None), "OPENAI_API_KEY")
        return PrebleCluster.connect(api_key=key, **given)

    def http(self) -> dict[str, Any]:
        """Return the arguments of `serve_http`. Raises ConfigurationError if others can reach it without a token."""
        given = {name: value for name in Http.__struct_fields__ if (value := getattr(self.serve, name)) is not None}
        key = secret(given.pop("api_key_env", None), KEY)
        if key is None and self.serve.host not in _LOOPBACK:
            raise ConfigurationError(
                f"host: {self.serve.host} can be reached by others: set {KEY}, the token to ask for"
            )
        return {**given, "api_key": key}


def table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file. Raises OSError, or ConfigurationError if it is not TOML."""
    with Path(path).open("rb") as file:
        text = file.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ConfigurationError(f"{path}: longer than {_LONGEST} bytes")
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None


def settings(given: Mapping[str, Any], source: str) -> Settings:
    """Return the settings of a table. Raises ConfigurationError, which names the `source` and the key.

    A key that does not exist is an error too, which names the nearest one that does.
    """
    _known(given, Settings.__struct_fields__, source)
    if isinstance(http := given.get("serve"), Mapping):
        _known(http, Http.__struct_fields__, f"{source}: [serve]")
    try:
        return msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigurationError(f"{source}: {where.rstrip('`')}: {what}") from None


def secret(name: str | None, usual: str) -> str | None:
    """Return what the environment variable `name` holds, or if it is None, what `usual` may hold."""
    if name is not None and not os.environ.get(name):
        raise ConfigurationError(f"api_key_env: there is no environment variable {name}, or it is empty")
    return os.environ.get(name or usual) or None


def _known(table: Mapping[str, Any], names: Sequence[str], source: str) -> None:
    for name in table:
        if name not in names:
            raise ConfigurationError(f"{source}: {name}: unknown key{nearest(name, names)}")
