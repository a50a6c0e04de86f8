"""Continuous batching without the model: which tokens the next step computes, and how sampled tokens are taken in."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from preble.backends import Delta, EngineRequest, Evicted, Load
from preble.backends.cache import BlockCache, Lease
from preble.backends.checks import check_biases, check_prompt
from preble.core.cost import StepTiming
from preble.errors import ConfigurationError, InvalidRequestError
from preble.tokens import TOKEN_BYTES
from preble.tree import Namespaces
from preble.types import FinishReason, SamplingParams, TokenLogprob
from preble.wait_queue.local import LocalScheduler

SampledToken = tuple[int, TokenLogprob | None]
"""One sampled token, and its log-probability if the request asked for it."""


class Sequence:
    """One request inside an engine.

    `tokens` are prompt and output as packed int32, `blocks` the KV blocks of the sequence in order, and `computed`
    is the number of leading tokens whose KV is in them; `computed_before_preemption` is what that was when the sequence
    was last preempted. With a cache salt, `first_cache_token` replaces the first token in the keys of the cache.
    The last `begun` tokens of the prompt are output that another engine has generated.
    `prompt_logprobs` are those so far, if they are asked for and not delivered yet: the engine adds them to the list.
    """

    __slots__ = (
        "arrived",
        "begun",
        "computed",
        "computed_before_preemption",
        "deadline",
        "done",
        "first_cache_token",
        "id",
        "lease",
        "prefilling",
        "priority",
        "prompt_logprobs",
        "prompt_tokens",
        "sampling",
        "started",
        "tokens",
    )

    def __init__(self, request: EngineRequest, now: float, first_cache_token: bytes = b"") -> None:
        self.id = request.id
        self.first_cache_token = first_cache_token
        self.tokens = bytearray(request.tokens)
        self.prompt_tokens = len(request.tokens) // TOKEN_BYTES
        self.begun = min(request.begun, self.prompt_tokens)
        self.sampling: SamplingParams = request.sampling
        self.priority = request.priority
        self.arrived = now
        self.deadline = None if request.remaining is None else now + request.remaining
        self.computed = 0
        self.computed_before_preemption = 0
        self.lease: Lease | None = None
        self.prefilling = False
        self.started = False
        self.done = False
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        if self.sampling.prompt_logprobs is not None:
            self.prompt_logprobs = [None]

    @property
    def length(self) -> int:
        """Number of tokens, prompt and output."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def key(self) -> bytes:
        """The tokens by which the cache knows the sequence: those of another cache salt never match them."""
        return self.first_cache_token + bytes(memoryview(self.tokens)[len(self.first_cache_token) :])

    @property
    def output_tokens(self) -> int:
        """Number of tokens generated so far."""
        return len(self.tokens) // TOKEN_BYTES - self.prompt_tokens

    @property
    def blocks(self) -> list[int]:
        """KV block numbers, in order; none while it waits. A step in progress may read them after an abort."""
        return self.lease.blocks if self.lease else []


class TokenSpan(msgspec.Struct, frozen=True, gc=False):
    """The tokens `start` to `start + count` of a sequence, which one step computes.

    If `samples` is true, the next token is sampled after them. A decode is a span of one token that samples; a prefill
    is a span of several, or several spans in as many steps if it is chunked.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool

    @property
    def scored(self) -> int:
        """How many of its first tokens are followed by a prompt token whose log-probability is asked for."""
        if self.sequence.prompt_logprobs is None:
            return 0
        return max(0, min(self.start + self.count, self.sequence.prompt_tokens - 1) - self.start)

    @property
    def tokens(self) -> bytes:
        """The tokens to compute, packed int32."""
        return bytes(self.sequence.tokens[self.start * TOKEN_BYTES : (self.start + self.count) * TOKEN_BYTES])


class Batcher:
    """Sequences waiting and running on one engine, its KV blocks, and the steps to take.

    For each step, call `plan`, compute the spans, and `commit` the sampled tokens. Requests may be added and aborted at
    any time, also between these two calls. Decodes go first, one token each. What is left of `max_batched_tokens` goes
    to running prefills in order of admission, then to waiting requests in the order of `local`. A request is admitted
    if there are blocks for all its tokens so far. When a decode finds no free block, the sequence that was admitted
    last is preempted: it waits again and its tokens are computed again, but none is generated twice or lost.
    `preemptions` counts the preemptions, and `recomputed` the tokens computed again because the cache did not keep
    them.
    """

    def __init__(
        self,
        *,
        kv_tokens: int,
        block_size: int,
        max_running: int,
        max_batched_tokens: int,
        context_limit: int,
        local: LocalScheduler,
        eos_token_ids: Iterable[int] = (),
        vocab_size: int = 1 << 31,
    ) -> None:
        _check_sizes(kv_tokens, block_size, max_running, max_batched_tokens, context_limit)
        self.cache = BlockCache(kv_tokens, block_size)
        self.limit = min(context_limit, self.cache.total * block_size)
        self.local = local
        self.preemptions = 0
        self.recomputed = 0
        self._context_limit = context_limit
        self._vocab_size = vocab_size
        self._max_running = max_running
        self._max_batched_tokens = max_batched_tokens
        self._eos_token_ids = frozenset(eos_token_ids)
        self._namespaces = Namespaces(self._in_use)
        self._sequences: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        self._deltas: list[tuple[int, Delta]] = []

    @property
    def idle(self) -> bool:
        """True if there is nothing to run and nothing waiting."""
        return not self._sequences

    def __contains__(self, id: int) -> bool:
        return id in self._sequences

    def add(self, request: EngineRequest, now: float) -> None:
        """Queue a request. Raises InvalidRequestError, which names the field, if it can never run."""
        if request.id in self._sequences:
            raise InvalidRequestError(f"{request.id} is in use", field="id")
        check_prompt(
            request.tokens, context_limit=self._context_limit, kv_tokens=self.limit, vocab_size=self._vocab_size
        )
        check_biases(request.sampling, self._vocab_size)
        key = self._namespaces.key(request.cache_salt, request.tokens)
        sequence = Sequence(request, now, key[:TOKEN_BYTES] if request.cache_salt else b"")
        self._sequences[request.id] = sequence
        self.local.add(request.id, key, priority=request.priority, deadline=sequence.deadline, now=now)

    def abort(self, id: int) -> None:
        """End a request with finish reason "abort". Unknown ids are ignored."""
        sequence = self._sequences.get(id)
        if sequence is not None:
            self._finish(sequence)
            self._deltas.append((id, Delta(b"", finish_reason="abort")))

    def drop(self, spans: Iterable[TokenSpan]) -> list[int]:
        """End the requests of a step that failed, without a delta, and return their ids."""
        sequences = [span.sequence for span in spans if not span.sequence.done]
        for sequence in sequences:
            self._finish(sequence)
        return [sequence.id for sequence in sequences]

    def plan(self, now: float) -> list[TokenSpan]:
        """Return the spans of the next step, at most `max_batched_tokens` tokens; empty if there is nothing to do."""
        spans = self._decodes()
        budget = self._max_batched_tokens - len(spans)
        for sequence in self._running.values():
            if budget and sequence.length - sequence.computed > 1:
                spans.append(_prefill(sequence, budget))
                budget -= spans[-1].count
        return spans + self._admissions(budget, now)

    def commit(self, spans: Iterable[TokenSpan], sampled: list[SampledToken], now: float) -> None:
        """Take in a step. `sampled` has one entry for each span that samples, in order."""
        samples = iter(sampled)
        for span in spans:
            sample = next(samples) if span.samples else None
            if not span.sequence.done:
                self._advance(span, sample)

    def deltas(self) -> list[tuple[int, Delta]]:
        """Return and forget the deltas since the last call as (request id, delta), in order."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        return [self._unsalted(evicted) for evicted in self.cache.evicted()]

    def load(self) -> Load:
        """Return the present load; KV blocks that several running requests share count once."""
        return Load(len(self._running), self.local.waiting, self.cache.leased * self.cache.block_size)

    def reset_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        self.cache.reset()

    def check(self) -> None:
        """Raise AssertionError if sequences, queue and blocks disagree."""
        self.local.check()
        self._namespaces.check()
        self.cache.check(sequence.lease for sequence in self._running.values() if sequence.lease)
        assert len(self._running) <= self._max_running, "too many running"
        assert self.local.waiting + len(self._running) == len(self._sequences), "a sequence is lost"
        for sequence in self._sequences.values():
            waits = sequence.id in self.local
            assert waits != (sequence.id in self._running), "a sequence neither runs nor waits, or both"
            assert waits == (sequence.lease is None), "a waiting sequence holds blocks, or a running one has no lease"
            assert not sequence.done, "a finished sequence is kept"
            assert sequence.computed <= len(sequence.blocks) * self.cache.block_size, "computed tokens without blocks"
            assert sequence.computed < sequence.length <= self.limit, "a sequence is longer or shorter than it may be"

    def _decodes(self) -> list[TokenSpan]:
        spans: list[TokenSpan] = []
        for sequence in list(self._running.values()):
            length = sequence.length
            # Preempted are those admitted later than the sequence that needs a block, or at last that one itself.
            if sequence.lease and length - sequence.computed == 1 and self._has_room(sequence, sequence.lease, length):
                spans.append(TokenSpan(sequence, length - 1, 1, True))
        return spans

    def _has_room(self, sequence: Sequence, lease: Lease, length: int) -> bool:
        while not self.cache.extend(lease, length):
            latest = next(reversed(self._running.values()))
            self._preempt(latest)
            if latest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self._release(sequence)
        sequence.lease = None
        sequence.computed_before_preemption, sequence.computed = sequence.computed, 0
        if sequence.prompt_logprobs is not None:
            sequence.prompt_logprobs = [None]
        self.local.remove(sequence.id)
        # Its first arrival keeps its place in the queue.
        self.local.add(
            sequence.id,
            sequence.key,
            priority=sequence.priority,
            deadline=sequence.deadline,
            now=sequence.arrived,
        )

    def _admissions(self, budget: int, now: float) -> list[TokenSpan]:
        spans: list[TokenSpan] = []
        if not budget or not self.local.waiting:
            return spans
        slots = self._max_running - len(self._running)
        for picked in self.local.pick(slots, cached=self.cache.match, now=now):
            sequence = self._sequences[picked]
            if not budget or not self._admit(sequence):
                break
            spans.append(_prefill(sequence, budget))
            budget -= spans[-1].count
        return spans

    def _admit(self, sequence: Sequence) -> bool:
        # Log-probabilities of a prompt need the logits at each of its tokens, which a cache does not have.
        lease = self.cache.acquire(b"" if sequence.prompt_logprobs is not None else sequence.key)
        # Keep one block free for each running sequence, or the next decodes would preempt the new one again.
        if not self.cache.extend(lease, sequence.length, spare=len(self._running)):
            self.cache.release(lease)
            return False
        self.local.admit(sequence.id)
        self._running[sequence.id] = sequence
        sequence.lease = lease
        sequence.prefilling = True
        sequence.computed = lease.shared * self.cache.block_size
        self.recomputed += max(0, sequence.computed_before_preemption - sequence.computed)
        if not sequence.started:
            sequence.started = True
            self._deltas.append((sequence.id, Delta(b"", cached_tokens=sequence.computed)))
        return True

    def _advance(self, span: TokenSpan, sample: SampledToken | None) -> None:
        sequence = span.sequence
        sequence.computed = span.start + span.count
        if sequence.prefilling:
            self._store(sequence)
        if sample is not None:
            if sequence.prefilling:
                sequence.prefilling = False
                self.local.prefilled(sequence.id)
            self._append(sequence, *sample)

    def _append(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> None:
        packed = token.to_bytes(TOKEN_BYTES, "little")
        sequence.tokens += packed
        finish, stop = self._finish_reason(sequence, token)
        logprobs = None if logprob is None else (logprob,)
        delta = Delta(packed, None, finish, stop, logprobs)
        if sequence.prompt_logprobs is not None:
            delta.prompt_logprobs, sequence.prompt_logprobs = tuple(sequence.prompt_logprobs), None
        self._deltas.append((sequence.id, delta))
        if finish:
            self._finish(sequence)

    def _finish_reason(self, sequence: Sequence, token: int) -> tuple[FinishReason | None, int | None]:
        sampling, output = sequence.sampling, sequence.output_tokens
        if output >= sampling.min_tokens:
            if token in self._eos_token_ids and not sampling.ignore_eos:
                return "stop", None
            if token in sampling.stop_token_ids:
                return "stop", token
        if output >= sampling.token_limit or sequence.length >= self.limit:
            return "length", None
        return None, None

    def _finish(self, sequence: Sequence) -> None:
        sequence.done = True
        del self._sequences[sequence.id]
        self.local.remove(sequence.id)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.lease is not None:
            self._store(sequence)
            self.cache.release(sequence.lease)
            del self._running[sequence.id]

    def _store(self, sequence: Sequence) -> None:
        if sequence.lease is not None:
            tokens = sequence.key if sequence.first_cache_token else sequence.tokens
            self.cache.store(sequence.lease, tokens, sequence.computed)

    def _in_use(self, first: bytes) -> bool:
        return self.cache.has_prefix_token(first) or any(
            sequence.first_cache_token == first for sequence in self._sequences.values()
        )

    def _unsalted(self, evicted: Evicted) -> Evicted:
        salt, tokens = self._namespaces.prompt(evicted.tokens)
        return Evicted(tokens, evicted.keep, salt) if salt else evicted


def step_timing(spans: Iterable[TokenSpan], seconds: float) -> StepTiming:
    """Describe a step of these spans that took so many seconds."""
    computed = context = prefill_context = product = decodes = 0
    for span in spans:
        end = span.start + span.count
        computed += span.count
        context += end
        if span.count == 1:
            decodes += 1
        else:
            prefill_context += end
            product += span.count * end
    return StepTiming(computed, context, prefill_context, product, decodes, seconds)


def _prefill(sequence: Sequence, budget: int) -> TokenSpan:
    missing = sequence.length - sequence.computed
    count = min(missing, budget)
    return TokenSpan(sequence, sequence.computed, count, count == missing)


def _check_sizes(
    kv_tokens: int, block_size: int, max_running: int, max_batched_tokens: int, context_limit: int
) -> None:
    for name, value, least in (
        ("block_size", block_size, 1),
        ("kv_tokens", kv_tokens, 2 * block_size),
        ("max_running", max_running, 1),
        ("max_batched_tokens", max_batched_tokens, max_running),
        ("context_limit", context_limit, 2),
    ):
        if value < least:
            raise ConfigurationError(f"{name}: must be at least {least}, not {value}")
