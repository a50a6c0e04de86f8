"""The `Engine` protocol, and the Structs that an engine takes and returns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from preble.tokens import MAX_TOKENS, TOKEN_BYTES
from preble.types import MAX_NAME, FinishReason, PromptLogprobs, SamplingParams, Structure, TokenLogprob
from preble.wait_queue.disciplines import Discipline

# Limits on the fields of a message, checked where it is decoded.
Id: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
TokenBytes: TypeAlias = Annotated[bytes, Meta(max_length=MAX_TOKENS * TOKEN_BYTES)]
Priority: TypeAlias = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Salt: TypeAlias = Annotated[str, Meta(max_length=1000)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=86_400)]
Tokens: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
Adapter: TypeAlias = Annotated[str, Meta(max_length=MAX_NAME)]


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do. Sizes are in tokens, `max_running` is a number of requests.

    * `reports_evictions` is True if `cache_events` returns every eviction; otherwise the scheduler estimates them.
    * `reports_steps` is True if the engine has `timings`; otherwise the scheduler infers from the times at which tokens
      arrive how long steps take.
    * `cost` names the preset of `preble.core.cost` with which the scheduler begins.
    * `adapters` are the names of the LoRA adapters that it can apply, or None if it accepts any name. Requests that
      name another adapter are refused before they are sent.
    * `max_batched_tokens` is the most that one step computes, so that longer prefills take several steps; None if that
      is not known.
    * `plain_text` is True if it has no model, so that its ids are those of `preble.text.plain`.
    * `structures` are the fields of `SamplingParams` that give the output a form and that it takes; requests with
      another are refused before they are sent.
    * `discipline` is the order of the engine's wait queue (see `preble.wait_queue.disciplines`), if its first delta of
      a request comes as soon as the request is admitted; otherwise it is "fcfs".
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
    plain_text: bool = False
    structures: tuple[Structure, ...] = ()


class EngineRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One sequence to generate. `tokens` is the prompt as packed int32, and `sampling.n` is 1.

    `sampling.token_limit` is the most tokens to generate. A request with a lower `priority` goes first. Requests with
    different `cache_salt` must not use each other's cached prefixes. `remaining` is the number of seconds until the
    request's deadline, None if it has none. At one priority the earliest deadline goes first, and a request is not
    started after its deadline. The engine need not abort it then, because the sender does. `lora` names the LoRA
    adapter to compute with; it is empty for none. Requests with an adapter have a cache salt of their own.
    If the output has a form, the last `begun` tokens of the prompt are output that another engine has generated. An
    engine that cannot go on with it raises EngineError.
    """

    id: Id
    tokens: TokenBytes
    sampling: SamplingParams
    priority: Priority = 0
    cache_salt: Salt = ""
    remaining: Seconds | None = None
    lora: Adapter = ""
    begun: Tokens = 0


class Delta(msgspec.Struct, array_like=True):
    """The next tokens of one request, packed int32: often one token, and none in the first delta.

    An engine yields `Delta(b"", cached_tokens=48)` when it takes a request out of its wait queue: of the prompt, 48
    tokens were in its prefix cache. If it does not know that number yet, it yields `Delta(b"")` and sets
    `cached_tokens` once on a later delta. The last delta has a `finish_reason`, and as `stop_reason` the id of the
    token of `stop_token_ids` that ended the output, if one did. `logprobs` has an entry for each token if the request
    asked for log-probabilities. `output_tokens` is the number of all output tokens as the engine counts them, where
    that is not the number of `tokens` that it has yielded, because they were made of text. `prompt_tokens` is that of
    the prompt, where the engine counts another than it was sent. `prompt_logprobs` come once,
    if asked for, with the first token or before it: they have an entry for each token of `EngineRequest.tokens`, and
    that of the first one is None.
    """

    tokens: bytes
    cached_tokens: Tokens | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    output_tokens: Tokens | None = None
    prompt_tokens: Tokens | None = None
    prompt_logprobs: PromptLogprobs | None = None

    @property
    def admitted(self) -> bool:
        """True for the delta which says that the request has left the engine's wait queue."""
        return self.cached_tokens is not None or not (self.tokens or self.finish_reason)


class Evicted(msgspec.Struct, frozen=True, array_like=True):
    """Of the prefix `tokens` (packed int32, from the first token on), only the first `keep` tokens are cached now.

    `cache_salt` is that of the requests that could use it. `Evicted(b"", 0)` says that the whole cache was cleared, for
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
    """What computes tokens in a worker. All calls come from one event loop.

    With `PrebleCluster(backend="package.module:Class")` a worker calls `Class(model=..., **engine_options)`; an engine
    with an entry in `BACKENDS` goes by its name. Do what takes long in `start`, not in the constructor. A worker's GPUs
    are those in CUDA_VISIBLE_DEVICES, and OMP_NUM_THREADS is its number of threads; an entry in `BACKENDS` may also put
    them into the options.

    An engine that measures its steps may also have `timings() -> list[StepTiming]`, which returns and forgets the steps
    since the last call: the scheduler learns from them what the engine's work costs.

    What raises EngineDeadError takes the worker out of service, and its requests go to other workers. Any other error
    fails one request if `generate` raises it, and all that run if `cache_events`, `load` or `timings` do.
    """

    async def start(self) -> EngineInfo:
        """Load the model. Raises ModelError or ConfigurationError, with the reason."""

    def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Yield deltas until one has a `finish_reason`. Raises EngineError if this request fails.

        The first delta comes when the request leaves the engine's wait queue. Closing the iterator aborts the request.
        """

    def abort(self, id: int) -> None:
        """End a request: its iterator yields a last delta with finish reason "abort". Unknown ids are ignored."""

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""

    def load(self) -> Load:
        """Return the present load. It must be cheap, because the worker calls it after every step."""

    async def reset_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""

    async def close(self) -> None:
        """Abort everything and free resources."""
