"""What may be said of one replica; what is not said is asked of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from preble.backends.checks import checked_options
from preble.errors import ConfigurationError

_Count = Annotated[int, Meta(ge=1, le=1 << 31)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]

Protocol = Literal["auto", "tokens", "sglang", "text"]
"""How to speak to a server: token ids both ways on /v1/completions, SGLang's /generate, or text."""


class ReplicaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the `openai` engine. Sizes are in tokens, times in seconds. An API key is none of them: it is secret.

    `served_model` picks one of several models. `kv_tokens`, `block_size`, `max_running`, `context_limit` and
    `vocab_size` correct or replace what the server tells of itself. `kv_events` is the ZeroMQ address where it
    publishes KV events, `kv_replay` the one where lost ones can be had again. `idle_timeout` bounds the silence of a
    stream, the wait for its first token included. A request is tried `attempts` times on the replica, with a pause of
    about `backoff`, doubled each time up to `backoff_limit`. Every `health_interval` it is asked for its health and
    load and must answer within `health_timeout`.
    """

    url: str
    protocol: Protocol = "auto"
    served_model: str | None = None
    vocab_size: _Count | None = None
    context_limit: _Count | None = None
    kv_tokens: _Count | None = None
    block_size: _Count | None = None
    max_running: _Count | None = None
    cost: str = "mistral-7b-a6000"
    kv_events: str | None = None
    kv_replay: str | None = None
    connect_timeout: _Seconds = 5.0
    idle_timeout: _Seconds = 300.0
    attempts: Annotated[int, Meta(ge=1, le=100)] = 4
    backoff: _Seconds = 0.1
    backoff_limit: _Seconds = 30.0
    health_interval: _Seconds = 1.0
    health_timeout: _Seconds = 2.0


def replica_options(options: dict[str, Any]) -> ReplicaOptions:
    """Return checked options. Raises ConfigurationError naming what is wrong."""
    if "url" not in options:
        raise ConfigurationError("url: is missing; PrebleCluster.connect([...]) takes those of running replicas")
    made = checked_options(options, ReplicaOptions, "openai")
    return msgspec.structs.replace(made, url=base_url(made.url))


def base_url(url: str) -> str:
    """Return `url` without a trailing slash or `/v1`. Raises ConfigurationError if it is no such URL.

    Names and passwords in it are refused, since URLs are shown in logs and results.
    """
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"url: {url!r} does not begin with http:// or https:// and a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError("url: must have no user, password, query or fragment; pass api_key=")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
