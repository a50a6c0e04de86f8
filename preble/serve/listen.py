"""An ASGI application behind a socket, in the caller's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    """A server whose signals are the caller's business: what runs in its loop already handles them."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


@asynccontextmanager
async def listening(app: ASGIApp, *, host: str, port: int, grace: float) -> AsyncGenerator[str, None]:
    """Serve `app` while inside, and yield its base URL. Port 0 is any free one.

    At the end no new connection is accepted, and requests have `grace` seconds to finish; then they are cancelled.
    Raises OSError if the address cannot be listened at.
    """
    listener = bound(host, port)
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve([listener]))
    try:
        await _started(server, serving)
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        await asyncio.wait([serving])
        listener.close()


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound there.

    It is made with its protocol named: asyncio turns off Nagle's algorithm only for such sockets, without which small
    answers wait for the client's delayed acknowledgement.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from None
    return listener


async def _started(server: uvicorn.Server, serving: asyncio.Future[None]) -> None:
    while not server.started:
        if serving.done():
            serving.result()
            raise OSError("the server ended before it was started")
        await asyncio.sleep(0.001)
