"""The decision log: all that a scheduler is told and decides, one JSON line each, enough to decide it again.

A log holds the prompts and the outputs, so it is as confidential as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from preble.core.cost import CostModel, StepTiming
from preble.core.receipt import Candidate
from preble.errors import ConfigurationError, InvalidRequestError
from preble.tokens import MAX_TOKENS, TOKEN_BYTES
from preble.wait_queue.disciplines import Discipline

VERSION = 2
"""Version of the log's format, which its first line names."""

MAX_LINE = 32 << 20
"""Upper bound on the bytes of a line that is read: room for the longest prompt, in base64, and many workers."""

Id: TypeAlias = str | int
Tokens: TypeAlias = Annotated[bytes, Meta(max_length=MAX_TOKENS * TOKEN_BYTES)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]


class Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="begin"):
    """The first line: the scheduler's policy, by name, and seed."""

    policy: str
    seed: int
    version: int


class AddWorker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="add_worker"):
    """A worker was added."""

    worker: str
    kv_tokens: int
    block_size: int
    cost: CostModel
    reports_evictions: bool
    now: float
    namespaces: tuple[str, ...] | None = None
    max_batched_tokens: int | None = None
    discipline: Discipline = "fcfs"
    context_limit: int | None = None


class DrainWorker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="drain_worker"):
    """A worker was drained: it accepts no more requests."""

    worker: str
    now: float


class AdjustWorker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="adjust_worker"):
    """A worker was paused or goes on, and its recent failures cost so many seconds for each request."""

    worker: str
    paused: bool
    penalty: float
    now: float


class RemoveWorker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="remove_worker"):
    """A worker was removed."""

    worker: str
    now: float


class Submitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="submit"):
    """A request was placed. From `chosen` to `candidates` it is the receipt, the rest are the arguments of `submit`.

    `tokens` are packed int32, in base64.
    """

    id: Id
    tokens: Tokens
    max_tokens: Count
    now: float
    chosen: str
    reason: str
    cached_tokens: Count
    predicted_ttft: float
    candidates: tuple[Candidate, ...] = ()
    session: str | None = None
    priority: int = 0
    namespace: str = ""
    tenant: str = ""
    worker: str | None = None
    excluded: tuple[str, ...] = ()


class Started(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="started"):
    """An engine began a prefill. Without `cached_tokens` if it did not know them yet: another follows once it does."""

    id: Id
    cached_tokens: Count | None
    now: float


class FirstToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="first_token"):
    """A prefill is done: the first token came."""

    id: Id
    now: float


class Finish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="finish"):
    """A request ended."""

    id: Id
    now: float
    output: Tokens = b""


class Evict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="evicted"):
    """A worker reported an eviction."""

    worker: str
    tokens: Tokens
    keep: int
    now: float
    cache_salt: str = ""


class Rebalance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="rebalance"):
    """Moves of waiting requests were proposed: id, from, to. Those carried out finish and are submitted again."""

    now: float
    moves: tuple[tuple[Id, str, str], ...]


class Observe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag="observe"):
    """A worker reported how long its steps took, or that was inferred."""

    worker: str
    timings: tuple[StepTiming, ...]
    now: float


Event: TypeAlias = (
    Begin
    | AddWorker
    | DrainWorker
    | AdjustWorker
    | RemoveWorker
    | Submitted
    | Started
    | FirstToken
    | Finish
    | Evict
    | Observe
    | Rebalance
)
"""One line. `event` is the scheduler's method that was called; the fields are its arguments and its answer."""


class DecisionLog:
    """Turns events into lines, each handed to `write` with its newline. The first event brings the first line along."""

    def __init__(self, write: Callable[[bytes], object], *, policy: str, seed: int) -> None:
        self._write = write
        self._begin: Begin | None = Begin(policy, seed, VERSION)

    def add(self, event: Event) -> None:
        """Write an event."""
        if self._begin is not None:
            begin, self._begin = self._begin, None
            self.add(begin)
        self._write(_encoder.encode(event) + b"\n")


def check_loggable(id: Hashable, *texts: str | None) -> None:
    """Raise InvalidRequestError for what a line cannot hold: ids that are no strings or 64-bit integers, broken text.

    Called before anything changes, so that what happened is in the log or did not happen.
    """
    if type(id) is int and -(1 << 63) <= id < 1 << 63:
        texts = (*texts, "")
    elif type(id) is str:
        texts = (*texts, id)
    else:
        raise InvalidRequestError("a decision log needs strings or 64-bit integers", field="id")
    try:
        for text in texts:
            (text or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"no Unicode text: {error}", field="submit") from None


def decode(line: bytes) -> Event:
    """Return the event of a line. Raises ConfigurationError, and nothing else, if it is not one."""
    if len(line) > MAX_LINE:
        raise ConfigurationError(f"log: a line of {len(line)} bytes, at most {MAX_LINE}")
    try:
        event = _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"log: not an event: {error}") from None
    if isinstance(event, Begin) and event.version != VERSION:
        raise ConfigurationError(f"log: version {event.version}, not {VERSION}")
    return event


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
