"""The `sim` engine: real batching and a real block cache, but invented tokens, and times from a cost model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load, StepTiming
from preble.backends.batching import Batcher, SampledToken, TokenSpan, step_timing
from preble.backends.checks import checked_options
from preble.backends.exit_process import exit_process
from preble.backends.invented import FIRST_TOKEN, Inventor, Words, words_of
from preble.backends.stepping import StepLoop
from preble.core.cost import CostModel, cost_model
from preble.errors import ConfigurationError, EngineError
from preble.tokens import unpack
from preble.wait_queue.disciplines import DEFAULT, Discipline
from preble.wait_queue.local import LocalScheduler

CRASH_STATUS = 70
"""Exit status of a process whose engine has the option to crash."""

_TIMER_SLACK = 0.002

_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(ge=0)]


class SimOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the `sim` engine. Sizes are in tokens, times in seconds since the engine started.

    Token ids are below `vocab_size`: by default that of the model's tokenizer, or 32,000 without one.

    `cost` is a preset's name or the fields of a CostModel. With `time_scale` 1 a step takes the time that the cost
    model gives, with 0.1 a tenth of it, with 0 no more than the program needs.

    The other options cause faults, for tests. `start_delay` makes starting slow. `crash_after` and `crash_at` end the
    process, or the worker if it has no process, in the step after so many requests, or after that time. `hang_after`
    and `hang_at` make steps never end from then on. `stall` = (at, seconds) is one pause. A prompt that contains
    `fail_prompt_token` fails.
    """

    vocab_size: Annotated[int, Meta(gt=FIRST_TOKEN, le=1 << 31)] | None = None
    context_limit: _Count = 131_072
    kv_tokens: _Count = 200_000
    block_size: _Count = 16
    max_running: _Count = 256
    max_batched_tokens: _Count = 2_048
    cost: str | CostModel = "mistral-7b-a6000"
    time_scale: _Seconds = 0.0
    seed: int = 0
    start_delay: _Seconds = 0.0
    crash_after: _Count | None = None
    crash_at: _Seconds | None = None
    hang_after: _Count | None = None
    hang_at: _Seconds | None = None
    stall: tuple[_Seconds, _Seconds] | None = None
    fail_prompt_token: int | None = None


class SimCore:
    """The simulated engine without a clock: `begin` returns when the step ends, and then `end` is called.

    Requests go in and deltas come out through `batcher`. The next token depends only on the seed, the last four tokens
    and the position. Therefore a request that is resumed, with its output so far as part of the prompt, continues with
    the same tokens, if it is greedy or has a seed.
    """

    def __init__(self, options: SimOptions, discipline: Discipline = DEFAULT, words: Words | None = None) -> None:
        words = words or words_of(None, options.vocab_size)
        self.cost = cost_model(options.cost)
        self.batcher = Batcher(
            kv_tokens=options.kv_tokens,
            block_size=options.block_size,
            max_running=options.max_running,
            max_batched_tokens=options.max_batched_tokens,
            context_limit=options.context_limit,
            vocab_size=words.size,
            eos_token_ids=() if words.end is None else (words.end,),
            local=LocalScheduler(discipline, block_size=options.block_size),
        )
        self.inventor = Inventor(words, options.seed, self.batcher.limit)
        self._chunks: list[TokenSpan] = []
        self._began = 0.0

    def begin(self, now: float) -> float | None:
        """Start the next step; return when it ends, or None if there is nothing to do."""
        self._began = now
        self._chunks = self.batcher.plan(now)
        return now + self.duration(self._chunks) if self._chunks else None

    def end(self, now: float) -> StepTiming:
        """End the step that `begin` started, and return what it was."""
        timing = step_timing(self._chunks, now - self._began)
        self.batcher.commit(self._chunks, self.sample(self._chunks), now)
        self._chunks = []
        return timing

    def duration(self, spans: list[TokenSpan]) -> float:
        """Return the seconds that the cost model gives for a step."""
        prefills = [(span.count, span.start + span.count) for span in spans if span.count > 1]
        decodes = [span.start + 1 for span in spans if span.count == 1]
        return self.cost.step(prefills, len(decodes), sum(decodes))

    def sample(self, spans: list[TokenSpan]) -> list[SampledToken]:
        """Return the next token for each span that samples, and add to the log-probabilities of prompts."""
        for span in spans:
            if span.scored:
                self.inventor.score(span)
        return [self.inventor.next(span.sequence) for span in spans if span.samples]

    def check(self) -> None:
        """Raise AssertionError if the batcher's invariants do not hold."""
        self.batcher.check()


class SimEngine:
    """An engine that needs no model: for tests, overhead measurements and studies of scheduling.

    Options are the fields of SimOptions. Of `model`, a folder or a GGUF file, it takes the words that texts are made
    of. Any other name is accepted, and so are all adapters. Samples differ unless they are greedy or have the same
    seed, and a new engine repeats them. Where only the context bounds a text (`max_tokens=None`), it ends by itself,
    after 200 tokens on average. All times are those of the running event loop, so a loop with a virtual clock needs no
    real time. `crash` is called with an exit status when an option says so, and must not return: by default it ends the
    process, or only the worker where that is in the caller's event loop. Raises ConfigurationError naming what is
    wrong, and ModelError.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        discipline: Discipline = DEFAULT,
        crash: Callable[[int], NoReturn] | None = None,
        **options: Any,
    ) -> None:
        self.options = checked_options(options, SimOptions, "sim")
        if not (crash is None or callable(crash)):
            raise ConfigurationError(f"crash: must be a function of the exit status, not {crash!r}")
        self.core = SimCore(self.options, discipline, words_of(model, self.options.vocab_size))
        self._model = model or "sim"
        self._crash = crash or exit_process.get()
        self._steps = StepLoop(self.core.batcher, self._execute, _now)
        self._requests = 0
        self._started = 0.0
        self._step_end = 0.0
        self._stall = self.options.stall

    async def start(self) -> EngineInfo:
        """Start stepping, after `start_delay`."""
        await asyncio.sleep(self.options.start_delay)
        self._started = _now()
        self._steps.start()
        options, words = self.options, self.core.inventor.words
        return EngineInfo(
            model=self._model,
            vocab_size=words.size,
            eos_token_ids=() if words.end is None else (words.end,),
            context_limit=options.context_limit,
            kv_tokens=self.core.batcher.cache.total * options.block_size,
            block_size=options.block_size,
            max_running=options.max_running,
            adapters=None,
            max_batched_tokens=options.max_batched_tokens,
            discipline=self.core.batcher.local.discipline,
            plain_text=words.plain,
        )

    def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Yield deltas until one has a `finish_reason`. Closing the iterator aborts the request.

        Raises EngineError if the prompt has `fail_prompt_token` in it.
        """
        self._requests += 1
        token = self.options.fail_prompt_token
        if token is not None and token in unpack(request.tokens):
            raise EngineError(f"told to fail prompts with token {token}")
        return self._steps.generate(request)

    def abort(self, id: int) -> None:
        """End a request: its iterator yields a last delta with finish reason "abort". Unknown ids are ignored."""
        self._steps.abort(id)

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        return self._steps.cache_events()

    def timings(self) -> list[StepTiming]:
        """Return and forget the steps since the last call, as far as they are kept."""
        return self._steps.timings()

    def load(self) -> Load:
        """Return the present load."""
        return self._steps.load()

    async def reset_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        await self._steps.reset_cache()

    async def close(self) -> None:
        """Abort everything and stop."""
        await self._steps.close()

    async def _execute(self, spans: list[TokenSpan]) -> list[SampledToken]:
        await self._misbehave()
        if self.options.time_scale:
            await self._pass(self.core.duration(spans) * self.options.time_scale)
        return self.core.sample(spans)

    async def _pass(self, seconds: float) -> None:
        # Timers of event loops are coarse: the time by which the last step was too long is taken off this one.
        now = _now()
        begin = self._step_end if now - self._step_end < _TIMER_SLACK else now
        self._step_end = begin + seconds
        await asyncio.sleep(self._step_end - now)

    async def _misbehave(self) -> None:
        options, elapsed = self.options, _now() - self._started
        if _due(options.crash_after, self._requests) or _due(options.crash_at, elapsed):
            self._crash(CRASH_STATUS)
        if _due(options.hang_after, self._requests) or _due(options.hang_at, elapsed):
            await asyncio.Event().wait()
        if self._stall is not None and elapsed >= self._stall[0]:
            seconds, self._stall = self._stall[1], None
            await asyncio.sleep(seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _due(limit: float | None, value: float) -> bool:
    return limit is not None and value >= limit
