"""The options of one replica; what they leave out is asked of the replica itself."""

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
"""The API of a server: token ids both ways on /v1/completions, SGLang's /generate, or text on /v1/completions."""


class ReplicaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the `openai` engine. Sizes are in tokens, times in seconds. The API key is not among them.

    `served_model` picks one of several models. `kv_tokens`, `block_size`, `max_running`, `context_limit` and
    `vocab_size` replace the sizes that the server publishes. `kv_events` is the ZeroMQ address where it publishes KV
    events, and `kv_replay` the address where missing ones can be requested again. `idle_timeout` bounds the time
    without a token, and that to the first one. The server is asked for its health, at `health_path`, and its load every
    `health_interval`, and must respond within `health_timeout`. While it does not serve, it is asked after a pause of
    about `backoff`, doubled each time up to `backoff_limit`.
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
    backoff: _Seconds = 0.1
    backoff_limit: _Seconds = 30.0
    health_path: Annotated[str, Meta(pattern="^/")] = "/health"
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
