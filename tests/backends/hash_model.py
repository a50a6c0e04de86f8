"""A model whose "KV" of a token is a hash of the KV before it, read through the block table like attention does.

A block that is stale, shared wrongly, or written by two sequences changes every later token.
"""

from __future__ import annotations

from preble.backends.batching import Batcher, SampledToken, TokenSpan
from preble.tokens import unpack
from preble.types import TokenLogprob
from preble.wait_queue.local import LocalScheduler

VOCAB = 5


def following(state: int, token: int) -> int:
    return hash((state, token)) & 0x7FFFFFFF


def expected_output(prompt: tuple[int, ...], count: int) -> list[int]:
    """What the model generates after a prompt, computed without batches, blocks or caches."""
    state = 0
    for token in prompt:
        state = following(state, token)
    output = []
    for _ in range(count):
        output.append(state % VOCAB)
        state = following(state, output[-1])
    return output


def logprob(span: TokenSpan, token: int) -> TokenLogprob | None:
    return None if span.sequence.sampling.logprobs is None else TokenLogprob(token, -1.0)


class HashModel:
    """Executes spans over a pool of KV slots."""

    def __init__(self, batcher: Batcher) -> None:
        self.block_size = batcher.cache.block_size
        self.slots = [-1] * (batcher.cache.total * self.block_size)

    def execute(self, spans: list[TokenSpan]) -> list[SampledToken]:
        computed = [(span, self._compute(span) % VOCAB) for span in spans]
        return [(token, logprob(span, token)) for span, token in computed if span.samples]

    def _compute(self, span: TokenSpan) -> int:
        blocks, size = span.sequence.blocks, self.block_size
        start = span.start
        state = self.slots[blocks[(start - 1) // size] * size + (start - 1) % size] if start else 0
        for position, token in enumerate(unpack(span.tokens), start):
            state = following(state, token)
            self.slots[blocks[position // size] * size + position % size] = state
        return state


def make_batcher(
    *,
    blocks: int = 64,
    block_size: int = 4,
    max_running: int = 8,
    max_batched_tokens: int = 16,
    context_limit: int = 4096,
    discipline: str = "groups",
    eos_token_ids: tuple[int, ...] = (),
) -> Batcher:
    return Batcher(
        kv_tokens=blocks * block_size,
        block_size=block_size,
        max_running=max_running,
        max_batched_tokens=max_batched_tokens,
        context_limit=context_limit,
        eos_token_ids=eos_token_ids,
        vocab_size=1000,
        local=LocalScheduler(discipline, block_size=max(1, block_size)),
    )
