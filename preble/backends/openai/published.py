"""What servers publish of themselves beside their models: sizes, and how they take priorities."""

from __future__ import annotations

import contextlib
import logging
from typing import Annotated

import msgspec
from msgspec import Meta

from preble.backends.openai.http import Http, decoded
from preble.backends.openai.metrics import Sizes, sglang_priority, sglang_sizes, vllm_sizes
from preble.backends.openai.options import Protocol
from preble.errors import ConfigurationError, InvalidRequestError, PrebleError

_SERVER_INFO = ("/server_info", "/get_server_info")  # the second is older
_ABOUT = ("/props", "/info")  # of llama.cpp, of TGI
_Size = Annotated[int, Meta(ge=1, le=1 << 31)]
_logger = logging.getLogger("preble.openai")


class Published(msgspec.Struct, frozen=True):
    """What a server publishes of itself; `priority` is SGLang's, see `metrics.sglang_priority`."""

    sizes: Sizes = Sizes()
    vllm: bool = False
    priority: int = 0


class _Settings(msgspec.Struct):
    n_ctx: _Size | None = None


class _About(msgspec.Struct):
    max_total_tokens: _Size | None = None
    default_generation_settings: _Settings | None = None


_abouts = msgspec.json.Decoder(_About, strict=False)


async def published(http: Http, protocol: Protocol, timeout: float) -> Published:
    """Return what is found out; what a server does not publish, or not in a form that is known, is left out."""
    try:
        if protocol == "sglang":
            body = await _first(http, _SERVER_INFO, timeout)
            return Published(sglang_sizes(body), priority=sglang_priority(body))
        sizes = vllm_sizes((await http.get("/metrics", timeout=timeout)).decode(errors="replace"))
        return Published(sizes, vllm=sizes.kv_tokens is not None)
    except PrebleError as error:
        _logger.info("%s publishes no sizes: %s", http.url, error)
        return Published()


async def _first(http: Http, paths: tuple[str, ...], timeout: float) -> bytes:
    """Return the response at the first of these paths that the server has."""
    for path in paths[:-1]:
        with contextlib.suppress(ConfigurationError, InvalidRequestError):
            return await http.get(path, timeout=timeout)
    return await http.get(paths[-1], timeout=timeout)


async def published_context(http: Http, timeout: float) -> int | None:
    """Return the context in tokens where llama.cpp and TGI tell it; None if this is neither."""
    for path in _ABOUT:
        with contextlib.suppress(PrebleError):
            about = decoded(await http.get(path, timeout=timeout), _abouts)
            settings = about.default_generation_settings or _Settings()
            if size := about.max_total_tokens or settings.n_ctx:
                return size
    return None
