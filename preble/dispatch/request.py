"""A request in flight: what its samples have produced, and who waits for it."""

from __future__ import annotations

import asyncio

from preble.backends import Delta
from preble.errors import PrebleError
from preble.tokens import TOKEN_BYTES, unpack
from preble.types import Choice, FinishReason, RequestOptions, SamplingParams, Timings, TokenLogprob, Usage

_DAY = 86_400.0


class Sample:
    """One sample of a request: its tokens so far, across all its attempts.

    `id` is its name in the scheduler, `wire` its number on the worker it is on; a new attempt gets a new number, so
    that what an earlier one still says is not believed. Times are seconds of the event loop's clock.
    """

    __slots__ = (
        "attempts", "cached_tokens", "computed", "counted", "ended", "ended_at", "error", "finish_reason",
        "first_token_at", "flight", "id", "index", "logprobs", "moved", "offset", "options", "output", "prompt",
        "sampling", "stop_reason", "submitted_at", "taken", "taken_logprobs", "wire", "worker",
    )  # fmt: skip

    def __init__(
        self,
        flight: Flight,
        index: int,
        prompt: bytes,
        sampling: SamplingParams,
        options: RequestOptions,
        now: float,
    ) -> None:
        self.flight = flight
        self.id = f"{flight.id}.{index}"
        self.index = index
        self.prompt = prompt
        self.sampling = sampling
        self.options = options
        self.submitted_at = now
        self.first_token_at = self.ended_at = 0.0
        self.worker = ""
        self.wire = -1
        self.attempts = 0
        self.counted = self.computed = self.moved = self.ended = False
        self.output = bytearray()
        self.offset = 0
        self.logprobs: list[TokenLogprob] = []
        self.taken = self.taken_logprobs = 0
        self.cached_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.error: PrebleError | None = None

    def dispatched(self, worker: str, wire: int) -> None:
        """A new attempt goes to `worker`; what was generated before counts as its prompt."""
        self.worker = worker
        self.wire = wire
        self.attempts += 1
        self.offset = len(self.output)
        self.counted = self.computed = False

    def count(self, cached_tokens: int) -> None:
        """The engine told, perhaps at the end only, how many tokens this attempt's prefill found cached."""
        self.counted = True
        if not self.offset:
            self.cached_tokens = cached_tokens

    def mark_computed(self, now: float) -> None:
        """This attempt's prefill is done."""
        self.computed = True
        if not self.output:
            self.first_token_at = now

    def take(self) -> tuple[tuple[int, ...], tuple[TokenLogprob, ...] | None]:
        """Return the token ids, and their log-probabilities if asked for, that were not taken before."""
        tokens = unpack(bytes(self.output[self.taken :])) if self.taken < len(self.output) else ()
        self.taken = len(self.output)
        if self.sampling.logprobs is None:
            return tokens, None
        logprobs = tuple(self.logprobs[self.taken_logprobs :])
        self.taken_logprobs = len(self.logprobs)
        return tokens, logprobs

    def cut(
        self, tokens: int, ids: tuple[int, ...], logprobs: tuple[TokenLogprob, ...] | None
    ) -> tuple[tuple[int, ...], tuple[TokenLogprob, ...] | None]:
        """Drop all but the first `tokens` output tokens; return what is left of the pieces taken last."""
        excess = len(self.output) // TOKEN_BYTES - tokens
        del self.output[tokens * TOKEN_BYTES :], self.logprobs[tokens:]
        self.taken = len(self.output)
        keep = len(ids) - excess
        return ids[:keep], None if logprobs is None else logprobs[:keep]

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage(len(self.prompt) // TOKEN_BYTES, self.cached_tokens, len(self.output) // TOKEN_BYTES)

    def choice(self, text: str) -> Choice:
        """What the caller gets of a sample that ended without an error; `text` is that of its tokens."""
        assert self.finish_reason is not None
        return Choice(
            index=self.index,
            text=text,
            token_ids=unpack(bytes(self.output)),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=None if self.sampling.logprobs is None else tuple(self.logprobs),
            worker=self.worker,
            usage=self.usage,
            timings=Timings(self.first_token_at - self.submitted_at, self.ended_at - self.submitted_at),
        )

    def append(self, delta: Delta) -> None:
        """Take in what the engine produced."""
        self.output += delta.tokens
        if delta.logprobs:
            self.logprobs.extend(delta.logprobs)
        self.stop_reason = delta.stop_reason

    def end(self, now: float, *, reason: FinishReason | None = None, error: PrebleError | None = None) -> None:
        """Mark as ended and wake the reader."""
        self.ended = True
        self.ended_at = now
        if not self.output and not self.computed:
            self.first_token_at = now
        self.finish_reason = reason
        self.error = error
        self.flight.wake(self)


class Flight:
    """A request with its samples, read by one consumer. Without `streaming` it is woken only when a sample ends."""

    __slots__ = ("_ready", "_waiter", "id", "samples", "streaming", "timer")

    def __init__(self, id: str, *, streaming: bool) -> None:
        self.id = id
        self.streaming = streaming
        self.samples: list[Sample] = []
        self.timer: asyncio.TimerHandle | None = None
        self._ready: dict[int, Sample] = {}
        self._waiter: asyncio.Future[None] | None = None

    def remaining(self, now: float) -> float | None:
        """Seconds until the deadline, at most a day; None without one."""
        return None if self.timer is None else min(max(0.0, self.timer.when() - now), _DAY)

    def wake(self, sample: Sample) -> None:
        """There is something to read of `sample`."""
        self._ready[sample.index] = sample
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def ready(self) -> list[Sample]:
        """Wait for news and return the samples that have some. Raises the first error among them."""
        if not self._ready:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        news = list(self._ready.values())
        self._ready.clear()
        for sample in news:
            if sample.error is not None:
                raise sample.error
        return news
