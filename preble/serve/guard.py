"""Who may ask: a bearer token, and the names by which this server may be called."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from preble.serve import errors
from preble.serve.endpoint import Answer, send_whole
from preble.serve.errors import HttpError, failure
from preble.serve.messages.errors import error_body as messages_error

LOCAL = ("localhost", "127.0.0.1", "[::1]", "preble")
"""Names of this machine; the last is what in-process clients use."""
_OPEN = {"/health"}


class Guard:
    """An ASGI application in front of another one, which sees only requests that may come in."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, allowed_hosts: Collection[str] | None) -> None:
        """Ask for `api_key` if it is given, but not at `/health`; the Host must be one of `allowed_hosts` if given."""
        self._app = app
        self._key = None if api_key is None else api_key.encode()
        self._hosts = None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 401 or 403."""
        if scope["type"] == "http":
            try:
                self._check(Headers(scope=scope), scope["path"])
            except HttpError as error:
                told = failure(error)
                body = refusal(scope["path"])(told, None)
                await send_whole(Answer(body, told.status, errors.headers(told)), send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str) -> None:
        host = host_name(headers.get("host", "")).lower()
        if self._hosts is not None and host not in self._hosts:
            raise HttpError(403, f"this server is not called {host!r}: see allowed_hosts", code="host_not_allowed")
        if self._key is None or path in _OPEN:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token if scheme.lower() == "bearer" else headers.get("x-api-key", "")  # Anthropic's clients send that
        if not hmac.compare_digest(given.strip().encode(), self._key):
            ask = {"www-authenticate": "Bearer"}
            raise HttpError(401, "the API key is missing or wrong", code="invalid_api_key", headers=ask)


def refusal(path: str) -> errors.Refusal:
    """Return what makes the body of a failure in the protocol that is spoken at `path`."""
    return messages_error if path.startswith("/v1/messages") else errors.error_body


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port; of an IPv6 address with the brackets."""
    end = header.find("]")
    return header[: end + 1] if header.startswith("[") and end > 0 else header.partition(":")[0]
