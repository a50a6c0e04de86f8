"""One request to an ASGI application and its response, which streams: whatever happens, it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

import msgspec

from preble.parts import Parts

Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[..., Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

STALLED = 60.0
"""Seconds that an application waits for a reader who is far behind. Then nobody reads, and the request is given up."""
_END = 5.0
"""Seconds that a closed exchange has to end."""
_logger = logging.getLogger("preble.client")
_FAILED = (
    b'{"error":{"message":"the application failed: the log says why","type":"server_error",'
    b'"param":null,"code":"internal_error"}}'
)


class StalledError(Exception):
    """The response was not read for too long."""


class Request(msgspec.Struct, frozen=True):
    """What is asked for. `headers` are pairs of bytes, as in ASGI."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes


class Exchange:
    """The application runs as a task of its own, which knows nothing of who reads."""

    def __init__(self, app: App, request: Request, *, stalled: float = STALLED) -> None:
        """Begin. The task may wait `stalled` seconds for a reader."""
        self._app = app
        self._request = request
        self._stalled = stalled
        self._asked = False
        self._parts = Parts()
        self._error: StalledError | None = None
        self._gone = asyncio.Event()
        self._head: asyncio.Future[tuple[int, Headers]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run())

    async def head(self) -> tuple[int, Headers]:
        """Wait for the status and the headers."""
        return await asyncio.shield(self._head)

    async def part(self) -> bytes | None:
        """Wait for the next part of the body; None is its end. Raises StalledError if it came too late for the rest."""
        return await self._parts.take()

    def abandon(self) -> None:
        """Tell the application that nobody listens any more."""
        self._gone.set()
        self._task.cancel()

    async def close(self) -> None:
        """Abandon it if it has not ended, and wait until it has."""
        if not self._task.done():
            self.abandon()
            await asyncio.wait([self._task], timeout=_END)

    async def _run(self) -> None:
        try:
            await self._app(self._scope(), self._receive, self._send)
        except asyncio.CancelledError:
            pass  # by `abandon`, which is its only caller, or at the end of the loop
        except StalledError as error:
            self._error = error
        except Exception:
            _logger.exception("%s %s failed", self._request.method, self._request.path)
        finally:
            self._finish()

    def _finish(self) -> None:
        """End the response, however the application has ended."""
        if not self._head.done():
            self._head.set_result((500, [(b"content-type", b"application/json"), (b"x-should-retry", b"false")]))
            self._parts.put(_FAILED)
        self._parts.end(self._error)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._head.done():
            self._head.set_result((message["status"], list(message.get("headers", ()))))
        elif message["type"] == "http.response.body":
            if message.get("body"):
                await self._put(message["body"])
            if not message.get("more_body", False):
                self._parts.end()

    async def _put(self, part: bytes) -> None:
        try:
            async with asyncio.timeout(self._stalled):
                await self._parts.room()
        except TimeoutError:
            raise StalledError(f"the response was not read for {self._stalled:g} s") from None
        self._parts.put(part)

    def _scope(self) -> Mapping[str, Any]:
        request = self._request
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": request.path.encode(),
            "root_path": "",
            "query_string": request.query,
            "headers": request.headers,
            "client": None,
            "server": ("preble", 80),
        }
