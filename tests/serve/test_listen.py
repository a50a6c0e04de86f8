"""The socket of `serve_http`."""

from __future__ import annotations

import asyncio
import socket

from preble.serve.listen import bound


async def test_small_answers_do_not_wait_for_acknowledgements():
    """Asyncio turns off Nagle's algorithm only for sockets whose protocol is named."""
    accepted: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()

    class Accepts(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(transport)

    listener = bound("127.0.0.1", 0)
    async with await asyncio.get_running_loop().create_server(Accepts, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        transport = await asyncio.wait_for(accepted, 120)
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.close()
        writer.close()
        await writer.wait_closed()
