"""An engine's KV events over ZeroMQ: read on demand, in order, and missing batches are requested again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import zmq

from preble.errors import EngineDeadError, EngineError

_NOBLOCK = int(zmq.NOBLOCK)
_NUMBER_BYTES = 8
_END = (-1).to_bytes(_NUMBER_BYTES, "big", signed=True)
_PATIENCE = 10_000
_LIVE_FRAMES = 3  # topic, number, batch
_REPLAY_FRAMES = 4  # and an empty one before them
_LONGEST_FRAME = 64 << 20


class EventFeed:
    """Subscribes to the numbered batches that vLLM or SGLang publish, and passes each once, in order, to `take(body)`.

    Nothing happens by itself: `drain` reads the batches that have arrived. If one is missing, it is requested from
    `replay` (an address), and newer batches wait for it. A batch is lost if there is no `replay`, if that does not have
    it either, or if more than `patience` newer batches would have to wait. Then `lost()` is called once, before the
    first batch after the gap. When `take` raises EngineError, `drain` raises EngineDeadError from then on, because the
    content of the cache is not known any more.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        take: Callable[[bytes], None],
        lost: Callable[[], None],
        replay: str | None = None,
        topic: str = "",
        patience: int = _PATIENCE,
    ) -> None:
        self._take = take
        self._lost = lost
        self._patience = patience
        self._broken: EngineDeadError | None = None
        self._next = 0
        self._held: deque[tuple[int, bytes]] = deque()
        self._asked = False
        self._context = zmq.Context(io_threads=1)
        self._live = _connected(self._context.socket(zmq.SUB), endpoint)
        self._live.setsockopt(zmq.SUBSCRIBE, topic.encode())
        self._replay = _connected(self._context.socket(zmq.DEALER), replay) if replay else None

    @property
    def whole(self) -> bool:
        """False while batches are missing and newer ones wait for them."""
        return not self._held

    def drain(self) -> None:
        """Take in all batches that have arrived, without waiting. Raises EngineDeadError if `take` fails, or did."""
        if self._broken is not None:
            raise self._broken
        while (frames := _received(self._live, _LIVE_FRAMES)) is not None:
            number, body = int.from_bytes(frames[1], "big"), frames[2]
            if self._held or number > self._next:
                self._held.append((number, body))
            elif number == self._next:
                self._deliver(body)
        if self._held:
            self._heal()

    def close(self) -> None:
        """Free the sockets. May be called twice."""
        self._context.destroy(linger=0)

    def _deliver(self, body: bytes) -> None:
        self._next += 1
        try:
            self._take(body)
        except EngineError as error:
            self._broken = EngineDeadError(str(error))
            raise self._broken from error

    def _heal(self) -> None:
        if self._replay is None or len(self._held) > self._patience:
            self._give_up()
        elif not self._asked:
            self._asked = True
            self._replay.send_multipart([b"", self._next.to_bytes(_NUMBER_BYTES, "big")], _NOBLOCK)
        else:
            self._read_replay(self._replay)

    def _read_replay(self, replay: zmq.Socket[bytes]) -> None:
        while (frames := _received(replay, _REPLAY_FRAMES)) is not None:
            if frames[2] == _END:
                self._give_up()
                return
            if int.from_bytes(frames[2], "big") == self._next:
                self._deliver(frames[3])

    def _give_up(self) -> None:
        """Deliver the batches that waited; what is missing before them is lost."""
        self._asked = False
        held, self._held = self._held, deque()
        for number, body in held:
            if number > self._next:
                self._lost()
                self._next = number
            if number == self._next:
                self._deliver(body)


def _connected(socket: zmq.Socket[bytes], endpoint: str) -> zmq.Socket[bytes]:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, 0)  # a limit would make ZeroMQ drop batches silently
    socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST_FRAME)
    socket.connect(endpoint)
    return socket


def _received(socket: zmq.Socket[bytes], count: int) -> list[bytes] | None:
    """Return the next message of `count` frames, or None if none has arrived; other messages are dropped."""
    try:
        while len(frames := socket.recv_multipart(_NOBLOCK)) != count:
            pass
        return frames
    except zmq.Again:
        return None
