"""The wire schema: one tagged msgspec union per direction. Sender and receiver both check the sizes.

Token ids travel as packed little-endian int32 bytes. Everything that a worker reports after one engine step is in one
`Step`. The `Ticket` is no frame: it is one JSON line on a worker's standard input, before there is a socket.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load, StepTiming
from preble.backends.engine import Id, Seconds
from preble.errors import FrameError
from preble.tokens import MAX_TOKENS, TOKEN_BYTES

VERSION = 2
"""Protocol version, which both sides compare first."""

MAX_FRAME = 64 << 20
"""Upper bound on one frame, in bytes."""

MAX_BATCH = 1 << 16
"""Upper bound on the entries of any collection in a frame."""

MAX_TICKET = 1 << 20
"""Upper bound on a ticket's line, in bytes."""

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=100)]
Text: TypeAlias = Annotated[str, Meta(max_length=10_000)]
Field: TypeAlias = Annotated[str, Meta(max_length=100)]


class Submit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="submit"):
    """To worker: give this request to the engine. Answered by deltas or by one failure, with the request's id."""

    request: EngineRequest

    def __post_init__(self) -> None:
        _check_tokens(self.request.tokens)


class Abort(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="abort"):
    """To worker: end these requests, each with a last delta of finish reason "abort". Unknown ids are ignored."""

    ids: Annotated[tuple[Id, ...], Meta(max_length=MAX_BATCH)]


class ResetCache(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="reset_cache"):
    """To worker: forget all cached prefixes not in use. Answered by `ResetDone` of the same id."""

    id: Id


class Stop(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="stop"):
    """To worker: finish what runs within `grace` seconds, abort the rest, answer `Stopped` and exit."""

    grace: Seconds


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="hello"):
    """From worker, first: who is speaking. `nonce` proves that it holds the ticket."""

    version: int
    worker: Name
    incarnation: Name
    nonce: Name


class Ready(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="ready"):
    """From worker: the engine is loaded."""

    info: EngineInfo


class StartFailed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="start_failed"):
    """From worker, last: the engine did not start. `kind` tells which error the cluster raises."""

    kind: Literal["model", "configuration", "crash"]
    message: Text


class Failed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A request that failed, and why. `field` names the part of it that is wrong; it is empty if the engine failed."""

    id: Id
    reason: Text
    field: Field = ""


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="step"):
    """From worker: evictions, deltas and failures since the last one, in order. An empty one is a heartbeat.

    `timings` are steps that the engine took, oldest first; some may be missing.
    """

    evicted: Annotated[tuple[Evicted, ...], Meta(max_length=MAX_BATCH)]
    deltas: Annotated[tuple[tuple[Id, Delta], ...], Meta(max_length=MAX_BATCH)]
    failed: Annotated[tuple[Failed, ...], Meta(max_length=MAX_BATCH)]
    load: Load
    timings: Annotated[tuple[StepTiming, ...], Meta(max_length=MAX_BATCH)] = ()

    def __post_init__(self) -> None:
        for evicted in self.evicted:
            _check_tokens(evicted.tokens)
        for _, delta in self.deltas:
            if len(delta.tokens) != TOKEN_BYTES:
                _check_tokens(delta.tokens)


class ResetDone(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="reset_done"):
    """From worker: the answer to `ResetCache`."""

    id: Id


class ResetFailed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="reset_failed"):
    """From worker: the engine could not do what `ResetCache` of this id asks."""

    id: Id
    reason: Text


class Broken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="broken"):
    """From worker, last: its engine can serve nothing any more, and it exits. What it has goes elsewhere."""

    reason: Text


class Stopping(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="stopping"):
    """From worker: the cluster or a signal told it to stop. It aborts the requests that it gets from now on."""


class Stopped(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="stopped"):
    """From worker, last: it has closed its engine and exits."""


ToWorker: TypeAlias = Submit | Abort | ResetCache | Stop
FromWorker: TypeAlias = Hello | Ready | StartFailed | Step | ResetDone | ResetFailed | Broken | Stopping | Stopped


class _RequestId(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of an EngineRequest: whatever follows is not looked at."""

    id: Id


class _SubmitId(msgspec.Struct, frozen=True, array_like=True, tag="submit"):
    request: _RequestId


class Ticket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new worker must know. What its process is bound to, GPUs and threads, is in its environment."""

    worker: Name
    incarnation: Name
    nonce: Name
    address: Name
    backend: Text
    model: Text | None = None
    options: dict[str, Any] = {}
    version: int = VERSION

    @property
    def identity(self) -> bytes:
        """The name of the worker's socket, new for every incarnation."""
        return f"{self.worker}.{self.incarnation}".encode()


def encode(message: ToWorker | FromWorker) -> bytes:
    """Return `message` as one frame. Raises FrameError above MAX_FRAME."""
    frame = _encoder.encode(message)
    if len(frame) > MAX_FRAME:
        raise FrameError(f"frame of {len(frame)} bytes, the limit is {MAX_FRAME}")
    return frame


def decode_to_worker(frame: bytes) -> ToWorker:
    """Return the message of a frame from the cluster. Raises FrameError, and nothing else, if it is not one."""
    return _decode(_to_worker, frame)


def submitted_id(frame: bytes) -> int | None:
    """Return the id of the request in a `Submit` that `decode_to_worker` refuses; None if the frame has none."""
    try:
        return _decode(_submit_id, frame).request.id
    except FrameError:
        return None


def decode_from_worker(frame: bytes) -> FromWorker:
    """Return the message of a frame from a worker. Raises FrameError, and nothing else, if it is not one."""
    return _decode(_from_worker, frame)


def encode_ticket(ticket: Ticket) -> bytes:
    """Return `ticket` as one JSON line. Raises FrameError if its options are not plain data or too large."""
    try:
        line = msgspec.json.encode(ticket) + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"options must be plain data: {error}") from None
    if len(line) > MAX_TICKET:
        raise FrameError(f"ticket of {len(line)} bytes, the limit is {MAX_TICKET}")
    return line


def decode_ticket(line: bytes) -> Ticket:
    """Return the ticket of a JSON line. Raises FrameError if it is not one, or of another protocol version."""
    try:
        ticket = msgspec.json.decode(line, type=Ticket)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"not a ticket: {error}") from None
    if ticket.version != VERSION:
        raise FrameError(f"protocol version {ticket.version}, this worker speaks {VERSION}")
    return ticket


_Message = TypeVar("_Message")

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_submit_id: msgspec.msgpack.Decoder[_SubmitId] = msgspec.msgpack.Decoder(_SubmitId)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def _decode(decoder: msgspec.msgpack.Decoder[_Message], frame: bytes) -> _Message:
    if len(frame) > MAX_FRAME:
        raise FrameError(f"frame of {len(frame)} bytes, the limit is {MAX_FRAME}")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(str(error)) from None


def _check_tokens(packed: bytes) -> None:
    if len(packed) % TOKEN_BYTES or len(packed) > MAX_TOKENS * TOKEN_BYTES:
        raise FrameError(f"{len(packed)} bytes are no whole number of at most {MAX_TOKENS} tokens")
