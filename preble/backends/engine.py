"""What an engine is: its methods, what it is asked, and what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from preble.tokens import MAX_TOKENS, TOKEN_BYTES
from preble.types import MAX_NAME, FinishReason, SamplingParams, TokenLogprob
from preble.wait_queue.disciplines import Discipline

# What a worker lets a message say, checked where it is decoded.
Id: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
TokenBytes: TypeAlias = Annotated[bytes, Meta(max_length=MAX_TOKENS * TOKEN_BYTES)]
Priority: TypeAlias = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Salt: TypeAlias = Annotated[str, Meta(max_length=1000)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=86_400)]
Adapter: TypeAlias = Annotated[str, Meta(max_length=MAX_NAME)]


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do. Sizes are in tokens.

    `reports_evictions` is True if `cache_events` tells of every eviction; else the scheduler estimates them.
    Set `reports_steps` to False if it has no `timings`: then the scheduler infers from tokens what its steps take.
    `cost` names the preset of `preble.core.cost` to begin with. `adapters` are the names of the LoRA adapters that it
    can apply, None for whatever is asked; requests that name another are refused before they are sent. A step computes
    at most `max_batched_tokens`; longer prefills take several. None if that is not known. `discipline` is the order of
    its wait queue (`preble.wait_queue.disciplines`), if it tells at once which requests wait no longer, else "fcfs".
    """

    model: str
    vocab_size: int
    context_limit: int
    kv_tokens: int
    block_size: int
    max_running: int
    reports_evictions: bool = True
    reports_steps: bool = True
    eos_token_ids: tuple[int, ...] = ()
    cost: str = "mistral-7b-a6000"
    adapters: tuple[str, ...] | None = ()
    max_batched_tokens: int | None = None
    discipline: Discipline = "fcfs"


class EngineRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One sequence to generate. `tokens` are packed int32; `sampling.n` is 1; a lower `priority` goes first.

    Requests of different `cache_salt` must not use each other's cached prefixes. `remaining` is the seconds until
    nobody wants the answer any more: the sooner that is, the sooner it goes, and after that it does not start; whoever
    sent it aborts it then. `lora` names the adapter to compute with, if any; its requests have a salt of their own.
    """

    id: Id
    tokens: TokenBytes
    sampling: SamplingParams
    priority: Priority = 0
    cache_salt: Salt = ""
    remaining: Seconds | None = None
    lora: Adapter = ""


class Delta(msgspec.Struct, array_like=True):
    """New tokens of one request, packed int32, often one.

    The engine sends the first delta when the request waits no longer. `cached_tokens` is set once, on that one or, if
    the engine does not know yet, on a later one; then the first may be of nothing: `Delta(b"")`.
    `finish_reason` is set on the last delta; `stop_reason` is the stop token's id then, if one matched.
    """

    tokens: bytes
    cached_tokens: int | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def admitted(self) -> bool:
        """Whether it says that the engine has admitted the request: it waits no longer."""
        return self.cached_tokens is not None or not (self.tokens or self.finish_reason)


class Evicted(msgspec.Struct, frozen=True, array_like=True):
    """The engine no longer holds the prefix `tokens` (packed int32, from the beginning) beyond its first `keep` tokens.

    `cache_salt` is that of the requests that could use it. `Evicted(b"", 0)` says that the whole cache was cleared, of
    all salts.
    """

    tokens: bytes
    keep: int
    cache_salt: str = ""


class Load(msgspec.Struct, frozen=True, array_like=True):
    """An engine's state: requests running and waiting, and KV tokens in use by running requests."""

    running: int
    waiting: int
    used_tokens: int


class Engine(Protocol):
    """What `backend=` names. Constructed with keyword options; everything costly happens in `start`.

    An engine that knows its own steps may also have `timings() -> list[StepTiming]`, which returns and forgets those
    taken since the last call: the scheduler learns from them what the engine's work costs.
    """

    async def start(self) -> EngineInfo:
        """Load the model. Raises ModelError or ConfigurationError, with the reason."""

    def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Yield deltas until one has a `finish_reason`. Raises EngineError if this request fails.

        The first one comes when the request waits no longer. Closing the iterator aborts the request.
        """

    def abort(self, id: int) -> None:
        """End a request: its iterator yields a last delta with finish reason "abort". Unknown ids are ignored."""

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""

    def load(self) -> Load:
        """Return the present load. Cheap: called after every step."""

    async def reset_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""

    async def close(self) -> None:
        """Abort everything and free resources."""
