"""HTTP to one replica: a pool of connections, bounded responses, and errors that never contain the API key."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import msgspec

from preble.backends.openai.sse import EventStream
from preble.backends.openai.status import error_of_status, retry_after_seconds
from preble.errors import ConfigurationError, EngineError, PrebleError, UnreachableError

if TYPE_CHECKING:
    import aiohttp

MAX_BODY = 16 << 20
"""Longest response that is not a stream, in bytes."""

_MAX_ERROR_BODY = 1 << 16
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")  # with which lines of a stream begin
_DOCUMENTS = (b"{", b"[", b"<")
Shape = TypeVar("Shape")
_AGAIN = {401, 403, 408, 429}  # the first two are about our key, which is none of the client's business
_KEEP_ALIVE = 4.0  # seconds, below the 5 after which uvicorn closes an idle connection


class Http:
    """Speaks to the server at `url`. Make it inside a running event loop.

    All methods raise UnreachableError if there is no connection or it breaks, and the error that
    `status.error_of_status` returns for a response whose status is not 2xx.
    """

    def __init__(self, url: str, *, api_key: str | None, connect_timeout: float, idle_timeout: float) -> None:
        self._aiohttp = _import()
        self.url = url
        self._key = api_key
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._session = self._aiohttp.ClientSession(
            headers=headers,
            auto_decompress=False,  # a few bytes may become gigabytes, before any bound is looked at
            connector=self._aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
            timeout=self._aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=idle_timeout),
        )

    async def get(self, path: str, *, timeout: float) -> bytes:
        """Return the body of GET `path`, read within `timeout` seconds."""
        return await self._request("GET", path, timeout)

    async def post(self, path: str, *, timeout: float) -> bytes:
        """Return the response to an empty POST to `path`, read within `timeout` seconds."""
        return await self._request("POST", path, timeout)

    async def ask(self, path: str, body: bytes, *, timeout: float) -> bytes:
        """Return the response to a POST of a JSON document to `path`, read within `timeout` seconds."""
        return await self._request("POST", path, timeout, body)

    async def stream(self, path: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """POST `body` and yield the data of each event of the response. Closing the iterator closes the connection.

        If the server sends a document instead of a stream, that is yielded as the only event.
        """
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        try:
            async with self._session.post(
                self.url + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                await self._check(response)
                chunks = response.content.iter_any()
                chunk = await anext(chunks, b"")
                if not _is_stream(chunk, response.content_type):
                    yield await _bounded(response, MAX_BODY, chunk)
                    return
                events = EventStream()
                while chunk:
                    for event in events.feed(chunk):
                        yield event
                    chunk = await anext(chunks, b"")
        except (self._aiohttp.ClientError, OSError) as error:
            raise self._broken(error) from None

    @contextlib.asynccontextmanager
    async def exchange(
        self, path: str, body: bytes, headers: Mapping[str, str], *, streams: bool
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """POST `body` and yield the response, whatever it says, unless the server is too busy or fails.

        One that does not stream may take its time: only its health says whether the server still works.
        """
        idle = self._session.timeout.sock_read if streams else None
        timeout = self._aiohttp.ClientTimeout(
            total=None, sock_connect=self._session.timeout.sock_connect, sock_read=idle
        )
        try:
            async with self._session.post(
                self.url + path, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                if response.status >= 500 or response.status in _AGAIN:
                    await self._check(response)
                yield response
        except (self._aiohttp.ClientError, OSError) as error:
            raise self._broken(error) from None

    @contextlib.contextmanager
    def key_hidden(self) -> Iterator[None]:
        """Replace the API key, which a server may repeat, in the text of the error that is raised inside."""
        try:
            yield
        except PrebleError as error:
            error.args = (self._hidden(str(error)),)
            raise

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _request(self, method: str, path: str, timeout: float, body: bytes | None = None) -> bytes:
        headers = None if body is None else {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.request(
                    method, self.url + path, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                await self._check(response)
                return await _bounded(response, MAX_BODY)
        except (self._aiohttp.ClientError, OSError) as error:
            if type(error) is TimeoutError:  # an OSError; aiohttp's own say what they waited for
                raise UnreachableError(f"{self.url}: no answer to {method} {path} within {timeout:g} s") from None
            raise self._broken(error) from None

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise EngineError(f"{self.url}: an answer in {encoding[:20]!r}, which was not asked for")
        if not 200 <= response.status < 300:
            body = await _beginning(response, _MAX_ERROR_BODY)
            wait = retry_after_seconds(response.headers.get("Retry-After"), now=time.time())
            with self.key_hidden():
                raise error_of_status(
                    response.status, self._hidden(body.decode(errors="replace")).encode(), retry_after=wait
                )

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[api key]") if self._key else text

    def _broken(self, error: Exception) -> PrebleError:
        # The library's errors contain the request's headers, so they must not become the cause of ours.
        if isinstance(error, self._aiohttp.InvalidURL):
            return ConfigurationError(f"url: {self.url!r} cannot be used")
        broken = UnreachableError(self._hidden(f"{self.url}: {type(error).__name__}: {error}".rstrip(": ")))
        broken.refused = getattr(error, "errno", None) == errno.ECONNREFUSED
        return broken


def _is_stream(first: bytes, content_type: str) -> bool:
    """Whether a response is a stream of events, by its first bytes: what servers call it is not always true."""
    start = first.lstrip()
    return start.startswith(_FIELDS) or (content_type == "text/event-stream" and not start.startswith(_DOCUMENTS))


async def _beginning(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= limit:
            break
    return bytes(body[:limit])


async def _bounded(response: aiohttp.ClientResponse, limit: int, first: bytes = b"") -> bytes:
    body = bytearray(first)
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise EngineError(f"an answer of more than {limit} bytes")
    return bytes(body)


def decoded(body: bytes, decoder: msgspec.json.Decoder[Shape]) -> Shape:
    """Return a JSON document. Raises EngineError if it is not what the decoder wants."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"an answer that is not understood: {error}") from None


def _import() -> ModuleType:
    try:
        import aiohttp
    except ImportError as error:
        raise ConfigurationError(f'the openai engine needs aiohttp ({error}); pip install "preble[openai]"') from error
    return aiohttp
