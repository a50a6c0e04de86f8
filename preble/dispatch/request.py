"""A request in flight and its samples: what they have produced so far, across all their attempts."""

from __future__ import annotations

import msgspec

from preble.backends import Delta
from preble.core.scheduler import Placement
from preble.errors import PrebleError
from preble.tokens import TOKEN_BYTES, unpack
from preble.types import (
    Choice,
    FinishReason,
    PromptLogprobs,
    RequestOptions,
    SamplingParams,
    Timings,
    TokenLogprob,
    Usage,
)

_DAY = 86_400.0
_OPEN_ENDED_TOKENS = 1024  # a long answer; a whole context would look as if everything had to be evicted for it


class InFlightRequest:
    """A request with its `sampling.n` samples. `tokens` is the prompt, packed int32; times are on the caller's clock.

    Its reader is woken for every delta if it is `streaming`, else only when a sample ends. It is `open_ended` if only
    the context bounds its output, of which it will hardly use all. `forward` is what a replica gets in place of tokens.
    """

    __slots__ = ("deadline", "forward", "id", "open_ended", "options", "samples", "streaming", "submitted_at", "tokens")

    def __init__(
        self,
        id: str,
        tokens: bytes,
        sampling: SamplingParams,
        options: RequestOptions,
        *,
        now: float,
        deadline: float | None = None,
        streaming: bool = False,
        open_ended: bool = False,
        forward: object = None,
    ) -> None:
        self.id = id
        self.forward = forward
        self.tokens = tokens
        self.options = options
        self.submitted_at = now
        self.deadline = deadline
        self.streaming = streaming
        self.open_ended = open_ended
        self.samples = [Sample(self, index, _single(sampling, index)) for index in range(sampling.n)]

    def remaining(self, now: float) -> float | None:
        """Seconds until the deadline, at most a day; None without one."""
        return None if self.deadline is None else min(max(0.0, self.deadline - now), _DAY)


class Sample:
    """One sample of a request: its tokens so far, across all its attempts.

    `id` is its name in the scheduler, `worker_request_id` its number on the worker that it is on. A new attempt gets a
    new number, so that what an earlier one still says is not believed. The first `offset` bytes of `output` came from
    earlier attempts: they are prompt to the present one. `placement` is the scheduler's last choice for it. A sample
    is `reconsidered` for a move at most once, and was `moved` if that led to another worker.

    `failed_on` are the workers that it is not sent to again, since it failed there with `last_error`; the value says
    whether it may be, if no other is left. `suspects` are those of them whose fault that seems to be. It was `heard` of
    last at that time, and is `silent` if it went elsewhere once since nothing was heard. While it is on no worker, it
    waits until `waits_until` at most.
    """

    __slots__ = (
        "attempts", "cached_tokens", "counted", "counted_prompt", "ended", "ended_at", "error", "failed_on",
        "finish_reason", "first_token_at", "heard", "id", "index", "known_to_scheduler", "last_error", "logprobs",
        "moved", "offset", "output", "placement", "prompt_logprobs", "prompt_logprobs_taken", "reconsidered", "request",
        "retries", "sampling", "sent_at", "silent", "stop_reason", "suspects", "taken", "taken_logprobs", "waits_until",
        "worker", "worker_request_id",
    )  # fmt: skip

    def __init__(self, request: InFlightRequest, index: int, sampling: SamplingParams) -> None:
        self.request = request
        self.id = f"{request.id}.{index}"
        self.index = index
        self.sampling = sampling
        self.placement: Placement | None = None
        self.worker = ""
        self.worker_request_id = -1
        self.attempts = self.retries = 0
        self.known_to_scheduler = self.reconsidered = self.moved = self.ended = False
        self.first_token_at: float | None = None
        self.ended_at = 0.0
        self.output = bytearray()
        self.offset = 0
        self.logprobs: list[TokenLogprob] = []
        self.taken = self.taken_logprobs = 0
        self.prompt_logprobs: PromptLogprobs | None = None
        self.prompt_logprobs_taken = False
        self.cached_tokens = 0
        self.counted: int | None = None
        self.counted_prompt: int | None = None
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.error: PrebleError | None = None
        self.last_error: PrebleError | None = None
        self.failed_on: dict[str, bool] = {}
        self.suspects: list[str] = []
        self.sent_at = self.heard = 0.0
        self.silent = False
        self.waits_until: float | None = None

    @property
    def tokens(self) -> bytes:
        """What an engine has to take as its prompt: the request's, and what was generated so far."""
        return self.request.tokens + bytes(self.output)

    @property
    def max_tokens(self) -> int:
        """How many tokens may still be generated."""
        return self.sampling.token_limit - len(self.output) // TOKEN_BYTES

    @property
    def expected_tokens(self) -> int:
        """How many tokens the scheduler is told to expect at most."""
        return min(self.max_tokens, _OPEN_ENDED_TOKENS) if self.request.open_ended else self.max_tokens

    def remaining(self) -> SamplingParams:
        """What is left to ask of an engine."""
        done = len(self.output) // TOKEN_BYTES
        if not done and self.prompt_logprobs is None:
            return self.sampling
        return msgspec.structs.replace(
            self.sampling,
            max_tokens=self.max_tokens,
            min_tokens=max(0, self.sampling.min_tokens - done),
            prompt_logprobs=self.sampling.prompt_logprobs if self.prompt_logprobs is None else None,
        )

    @property
    def answered(self) -> bool:
        """Whether the present attempt has produced tokens."""
        return len(self.output) > self.offset

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the request's prompt has."""
        return len(self.request.tokens) // TOKEN_BYTES

    def dispatched(self, worker: str, worker_request_id: int, now: float) -> None:
        """A new attempt goes to `worker`; what was generated before counts as its prompt.

        An output with a form begins again if none of it was taken: not every engine can go on in a form.
        """
        if self.sampling.structure is not None and self.taken == 0:
            self.output.clear()
            self.logprobs.clear()
            self.first_token_at = self.counted = None
        self.worker = worker
        self.sent_at = self.heard = now
        self.worker_request_id = worker_request_id
        self.attempts += 1
        self.offset = len(self.output)

    def take(self) -> tuple[tuple[int, ...], tuple[TokenLogprob, ...] | None]:
        """Return the token ids, and their log-probabilities if asked for, that were not taken before."""
        tokens = unpack(bytes(self.output[self.taken :])) if self.taken < len(self.output) else ()
        self.taken = len(self.output)
        if self.sampling.logprobs is None:
            return tokens, None
        logprobs = tuple(self.logprobs[self.taken_logprobs :])
        self.taken_logprobs = len(self.logprobs)
        return tokens, logprobs

    def take_prompt_logprobs(self) -> PromptLogprobs | None:
        """Return the log-probabilities of the prompt if they are here, once."""
        if self.prompt_logprobs_taken or self.prompt_logprobs is None:
            return None
        self.prompt_logprobs_taken = True
        return self.prompt_logprobs

    def cut(
        self, tokens: int, ids: tuple[int, ...], logprobs: tuple[TokenLogprob, ...] | None
    ) -> tuple[tuple[int, ...], tuple[TokenLogprob, ...] | None]:
        """Drop all but the first `tokens` output tokens; return what is left of the pieces taken last."""
        excess = len(self.output) // TOKEN_BYTES - tokens
        del self.output[tokens * TOKEN_BYTES :], self.logprobs[tokens:]
        self.counted = None
        self.taken = len(self.output)
        keep = len(ids) - excess
        return ids[:keep], None if logprobs is None else logprobs[:keep]

    @property
    def usage(self) -> Usage:
        """Token counts so far; the engine's own counts of prompt and output where it has others."""
        output = len(self.output) // TOKEN_BYTES if self.counted is None else self.counted
        prompt = self.prompt_tokens if self.counted_prompt is None else self.counted_prompt
        return Usage(prompt, self.cached_tokens, output)

    def choice(self, text: str) -> Choice:
        """What the caller gets of a sample that ended without an error; `text` is that of its tokens."""
        assert self.finish_reason is not None
        assert self.first_token_at is not None
        since = self.request.submitted_at
        return Choice(
            index=self.index,
            text=text,
            token_ids=unpack(bytes(self.output)),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=None if self.sampling.logprobs is None else tuple(self.logprobs),
            worker=self.worker,
            usage=self.usage,
            timings=Timings(self.first_token_at - since, self.ended_at - since),
        )

    def append(self, delta: Delta, now: float) -> None:
        """Take in what the engine produced. `usage` counts what the attempt of its first token found cached."""
        if delta.cached_tokens is not None and not self.offset:
            self.cached_tokens = delta.cached_tokens
        if delta.tokens and self.first_token_at is None:
            self.first_token_at = now
        self.output += delta.tokens
        if delta.output_tokens is not None:
            self.counted = self.offset // TOKEN_BYTES + delta.output_tokens
        if delta.prompt_tokens is not None and not self.offset:
            self.counted_prompt = delta.prompt_tokens
        if delta.logprobs:
            self.logprobs.extend(delta.logprobs)
        if self.prompt_logprobs is None and delta.prompt_logprobs is not None:
            # For a later attempt the output so far was prompt too.
            self.prompt_logprobs = delta.prompt_logprobs[: len(self.request.tokens) // TOKEN_BYTES]
        self.stop_reason = delta.stop_reason

    def end(self, now: float, *, reason: FinishReason | None = None, error: PrebleError | None = None) -> None:
        """Mark as ended. Without a token, the first one counts as come now."""
        self.ended = True
        self.ended_at = now
        if self.first_token_at is None:
            self.first_token_at = now
        self.finish_reason = reason
        self.error = error


def _single(sampling: SamplingParams, index: int) -> SamplingParams:
    """What sample `index` of a request asks of an engine."""
    if sampling.n == 1:
        return sampling
    seed = None if sampling.seed is None else sampling.seed + index
    first = index == 0  # the prompt is the same for all
    return msgspec.structs.replace(
        sampling, n=1, seed=seed, prompt_logprobs=sampling.prompt_logprobs if first else None
    )
