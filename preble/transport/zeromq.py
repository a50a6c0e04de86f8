"""The two ends of a cluster's ZeroMQ link: `Router` in the cluster, `Dealer` in each worker.

Sockets are pumped from their file descriptor by `loop.add_reader`: no task and no future for each message.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable

import zmq

from preble.errors import FrameError, OverloadedError, PrebleError, UnreachableError
from preble.transport.schema import MAX_FRAME

HIGH_WATER = 20_000
"""Messages queued per peer before `send` raises OverloadedError."""

BURST = 512
"""Messages delivered in one wakeup before other callbacks of the loop get a turn."""

# These are plain integers because operators of pyzmq's enums take longer than the calls they are passed to.
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN, _RCVMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.RCVMORE)
_LONGEST_PATH = 100
_HEARTBEAT_MS, _SILENCE_MS = 200, 600


class Router:
    """The cluster's end: binds a private address, and sends to many peers by identity.

    `receive(peer, frame)` is called on the event loop for every frame, and may raise FrameError to refuse it. Frames
    that are refused, and messages of more than one part, are dropped and counted in `rejected`. Make it inside a
    running event loop.
    """

    def __init__(self, receive: Callable[[bytes, bytes], None], *, high_water: int = HIGH_WATER) -> None:
        self._receive = receive
        self._context = zmq.Context(io_threads=1)
        socket = _socket(self._context, zmq.ROUTER, high_water)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._directory, self.address = _bind(socket)
        self._pump = _Pump(socket, self._deliver)

    @property
    def rejected(self) -> int:
        """Messages dropped so far."""
        return self._pump.rejected

    def send(self, peer: bytes, frame: bytes) -> None:
        """Queue `frame` for `peer` and return at once; it is delivered later, or never if the peer is lost.

        Raises UnreachableError if there is no such peer, OverloadedError if it does not keep up, FrameError if the
        frame is too large.
        """
        self._pump.send(peer, frame)

    def close(self) -> None:
        """Drop what is queued and free the address. May be called twice."""
        self._pump.close(linger=0.0)
        self._context.term()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _deliver(self, socket: zmq.Socket[bytes]) -> None:
        peer = socket.recv(_NOBLOCK)
        self._receive(peer, _only_part(socket))


class Dealer:
    """A worker's end. Its one peer is the router at `address`, which knows it as `identity`. Otherwise as `Router`."""

    def __init__(
        self, address: str, identity: bytes, receive: Callable[[bytes], None], *, high_water: int = HIGH_WATER
    ) -> None:
        self._receive = receive
        self._context = zmq.Context(io_threads=1)
        socket = _socket(self._context, zmq.DEALER, high_water)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.connect(address)
        self._pump = _Pump(socket, self._deliver)

    @property
    def rejected(self) -> int:
        """Messages dropped so far."""
        return self._pump.rejected

    def send(self, frame: bytes) -> None:
        """Queue `frame` for the router. Raises OverloadedError and FrameError as `Router.send` does."""
        self._pump.send(frame)

    def close(self, *, linger: float = 0.0) -> None:
        """Close, blocking for at most `linger` seconds to send what is queued."""
        self._pump.close(linger=linger)
        self._context.term()

    def _deliver(self, socket: zmq.Socket[bytes]) -> None:
        frame = socket.recv(_NOBLOCK)
        if socket.getsockopt(_RCVMORE):
            _discard_parts(socket)
            raise FrameError("more than one part")
        self._receive(frame)


class _Pump:
    """Moves messages between a socket and the event loop.

    The descriptor of a ZeroMQ socket is edge-triggered. So the reader must drain the socket until it would block, and
    as sending may consume an edge, every send looks at the socket's event flags afterwards.
    """

    def __init__(self, socket: zmq.Socket[bytes], deliver: Callable[[zmq.Socket[bytes]], None]) -> None:
        self.rejected = 0
        self._socket = socket
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._descriptor: int = socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self._loop.add_reader(self._descriptor, self._drain)
        self._drain_soon()

    def send(self, *parts: bytes) -> None:
        if len(parts[-1]) > MAX_FRAME:
            raise FrameError(f"frame of {len(parts[-1])} bytes, the limit is {MAX_FRAME}")
        if self._socket.closed:
            raise UnreachableError("the transport is closed")
        try:
            for part in parts[:-1]:
                self._socket.send(part, _MORE)
            self._socket.send(parts[-1], _NOBLOCK)
        except zmq.ZMQError as error:
            raise _typed(error) from None
        if not self._again and self._readable():
            self._drain_soon()

    def close(self, *, linger: float) -> None:
        if self._socket.closed:
            return
        self._loop.remove_reader(self._descriptor)
        if self._again:
            self._again.cancel()
        self._socket.close(linger=round(linger * 1000))

    def _readable(self) -> bool:
        # Asking is also cheaper than the exception of a receive call that would block.
        events: int = self._socket.getsockopt(_EVENTS)  # type: ignore[assignment]
        return events & _POLLIN != 0

    def _drain_soon(self) -> None:
        self._again = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self._again:
            self._again.cancel()
            self._again = None
        for _ in range(BURST):
            if self._socket.closed or not self._readable():
                return
            self._deliver_one()
        self._drain_soon()

    def _deliver_one(self) -> None:
        """Deliver the next message. A failing receiver must not stop the pump."""
        try:
            self._deliver(self._socket)
        except FrameError:
            self.rejected += 1
        except Exception as error:  # as the loop does for a failing callback
            self._loop.call_exception_handler({"message": "receiver of a frame failed", "exception": error})


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, high_water: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, high_water),
        (zmq.RCVHWM, high_water),
        (zmq.MAXMSGSIZE, MAX_FRAME),
        (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS),
        (zmq.HEARTBEAT_TTL, _SILENCE_MS),
    ):
        socket.setsockopt(option, value)
    return socket


def _bind(socket: zmq.Socket[bytes]) -> tuple[str | None, str]:
    """Bind to a fresh private address; return the directory to remove later, and the address."""
    for root in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - the fresh directory inside is 0700
        if zmq.has("ipc") and os.path.isdir(root) and len(root) < _LONGEST_PATH - len("/preble-01234567/s"):
            directory = tempfile.mkdtemp(prefix="preble-", dir=root)
            address = f"ipc://{directory}/s"
            socket.bind(address)
            return directory, address
    return None, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def _only_part(socket: zmq.Socket[bytes]) -> bytes:
    """Return the next part of a message, which must be its last."""
    if not socket.getsockopt(_RCVMORE):
        raise FrameError("no body")
    frame = socket.recv(_NOBLOCK)
    if socket.getsockopt(_RCVMORE):
        _discard_parts(socket)
        raise FrameError("more than one part")
    return frame


def _discard_parts(socket: zmq.Socket[bytes]) -> None:
    while socket.getsockopt(_RCVMORE):
        socket.recv(_NOBLOCK)


def _typed(error: zmq.ZMQError) -> PrebleError:
    if isinstance(error, zmq.Again):
        return OverloadedError("the peer's queue is full", retry_after=0.01)
    return UnreachableError("no such peer" if error.errno == zmq.EHOSTUNREACH else str(error))
