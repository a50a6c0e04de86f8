"""The clients themselves: made by their own packages, which are imported when they are asked for."""

from __future__ import annotations

import asyncio
from importlib import import_module
from types import ModuleType
from typing import Any

from preble.client.exchange import App
from preble.client.transport import async_transport, sync_transport
from preble.errors import ConfigurationError

HOST = "http://preble"
"""Where the requests seem to go; no socket is opened."""
_KEY = "in-process"
_HTTP = {"openai": 3, "anthropic": 2}
"""The first version of each package that stands on httpx2; those before stand on httpx."""


def http_client(app: App, module: str | ModuleType = "httpx") -> Any:
    """Return an `AsyncClient` of `httpx` or `httpx2`. Raises ConfigurationError if it is not installed."""
    library = _imported(module) if isinstance(module, str) else module
    return library.AsyncClient(transport=async_transport(library, app), base_url=HOST, timeout=None)


def openai_client(app: App, **options: Any) -> Any:
    """Return an `openai.AsyncOpenAI`; `options` are its own, such as `max_retries`."""
    openai = _imported("openai")
    client = http_client(app, _http_of("openai"))
    return openai.AsyncOpenAI(**{"api_key": _KEY, "base_url": f"{HOST}/v1", "http_client": client, **options})


def openai_sync_client(app: App, loop: asyncio.AbstractEventLoop, **options: Any) -> Any:
    """Return an `openai.OpenAI` for other threads than that of `loop`, which is the cluster's."""
    openai, library = _imported("openai"), _http_of("openai")
    client = library.Client(transport=sync_transport(library, app, loop), base_url=HOST, timeout=None)
    return openai.OpenAI(**{"api_key": _KEY, "base_url": f"{HOST}/v1", "http_client": client, **options})


def anthropic_client(app: App, **options: Any) -> Any:
    """Return an `anthropic.AsyncAnthropic`; `options` are its own."""
    anthropic = _imported("anthropic")
    client = http_client(app, _http_of("anthropic"))
    return anthropic.AsyncAnthropic(**{"api_key": _KEY, "base_url": HOST, "http_client": client, **options})


def _http_of(package: str) -> Any:
    """Return the HTTP library that a package's clients stand on."""
    major = int(str(_imported(package).__version__).partition(".")[0])
    return _imported("httpx2" if major >= _HTTP[package] else "httpx")


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ConfigurationError(f"{name} is not installed: pip install {name}") from None
