"""A client that adds little of its own: keep-alive connections, requests made beforehand, times of the first byte.

`quick_ack` has the kernel acknowledge at once after every read. A server that does not set TCP_NODELAY holds small
writes back until the last one is acknowledged, which an ordinary client does 40 ms later.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Sequence
from typing import cast

import httptools
import msgspec


class Response(msgspec.Struct, frozen=True):
    """A whole response. `first` and `end` are when its body began and when it was complete, on `time.perf_counter`."""

    status: int
    body: bytes
    first: float
    end: float


class Client:
    """Sends each request to the next port, on a connection nobody else uses."""

    def __init__(self, ports: Sequence[int], *, quick_ack: bool = True) -> None:
        self.ports = ports
        self.quick_ack = quick_ack
        self._next = itertools.cycle(ports)
        self._idle: dict[int, list[Connection]] = {port: [] for port in ports}

    async def send(self, request: bytes) -> Response:
        """Return the response. Raises OSError if there is none."""
        port = next(self._next)
        connection = self._open(port) or await connect(port, self.quick_ack)
        response = await connection.send(request)
        self._idle[port].append(connection)
        return response

    def close(self) -> None:
        """Close all connections."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    def _open(self, port: int) -> Connection | None:
        """Take the connection used last of those the server has not closed."""
        while self._idle[port]:
            connection = self._idle[port].pop()
            if not connection.closed:
                return connection
        return None


class Connection(asyncio.Protocol):
    """One connection, one request at a time. The methods `on_` are what httptools calls."""

    def __init__(self, connected: socket.socket, quick_ack: bool) -> None:
        self.socket = connected
        self.closed = False
        self._quick_ack = quick_ack
        self._answer: asyncio.Future[Response] | None = None
        self._body: list[bytes] = []
        self._first = 0.0

    async def send(self, request: bytes) -> Response:
        """Return the response. Raises ConnectionError if the connection ends before it does."""
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self._body = []
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to write."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by type

    def data_received(self, data: bytes) -> None:
        """Acknowledge and parse."""
        if self._quick_ack:  # the kernel forgets it again
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what waits."""
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection ended before the answer"))

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if not self._body:
            self._first = time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand out the response."""
        end = time.perf_counter()
        body = b"".join(self._body)
        assert self._answer is not None
        self._answer.set_result(Response(self._parser.get_status_code(), body, self._first if body else end, end))


async def connect(port: int, quick_ack: bool) -> Connection:
    """Return a new connection to the loopback address. Raises OSError."""
    loop = asyncio.get_running_loop()
    connecting = socket.socket()
    connecting.setblocking(False)
    try:
        await loop.sock_connect(connecting, ("127.0.0.1", port))
    except BaseException:
        connecting.close()
        raise
    _, connection = await loop.create_connection(lambda: Connection(connecting, quick_ack), sock=connecting)
    return connection


async def get(port: int, path: str) -> bytes | None:
    """Return what is there, or None if nobody answers, or not with status 200."""
    client = Client([port])
    try:
        response = await client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    except OSError:
        return None
    finally:
        client.close()
    return response.body if response.status == 200 else None
