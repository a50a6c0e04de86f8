"""The engine of a script: it says what a reply says, piece by piece, and has a real block cache."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load
from preble.backends.cache import BlockCache, Lease
from preble.backends.invented import words_of
from preble.dispatch.request import Sample
from preble.testing.replies import Reply, ToolCall
from preble.text.plain import SMALLEST
from preble.tokens import TOKEN_BYTES, pack
from preble.types import STRUCTURES, TokenLogprob

CONTEXT = 1 << 18
"""The longest sequence of a script, in tokens."""

_BLOCK, _KV_TOKENS, _MOST_RUNNING = 16, 1 << 19, 256
_LOOK_AGAIN = 0.0005

Find = Callable[[bytes], tuple[Sample, Callable[[], Awaitable[Reply]]]]
"""Returns whose tokens these are, and what to say to them."""


class ScriptedEngine:
    """An `Engine` in the event loop of its cluster. `encode` turns text into token ids."""

    def __init__(self, find: Find, encode: Callable[[str], list[int]], model: str | None) -> None:
        self._find = find
        self._encode = encode
        self._model = model
        self._cache = BlockCache(_KV_TOKENS, _BLOCK)
        self._running = 0

    async def start(self) -> EngineInfo:
        """Return what it can do, which is anything."""
        words = words_of(self._model, None if self._model else SMALLEST)
        return EngineInfo(
            model=self._model or "scripted",
            vocab_size=words.size,
            context_limit=CONTEXT,
            kv_tokens=_KV_TOKENS,
            block_size=_BLOCK,
            max_running=_MOST_RUNNING,
            eos_token_ids=() if words.end is None else (words.end,),
            adapters=None,
            plain_text=words.plain,
            structures=STRUCTURES,
        )

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """Yield the parts of the reply, of which each is seen alone. Raises the reply's error."""
        sample, answer = self._find(request.tokens)
        lease = self._cache.acquire(request.tokens)
        self._running += 1
        try:
            yield Delta(b"", cached_tokens=lease.shared * _BLOCK)
            reply = await answer()
            # What another worker has said of it already is in the sample.
            size, room = len(sample.output), sample.max_tokens
            said = size // TOKEN_BYTES
            for part in reply.parts:
                if isinstance(part, (int, float)):
                    if not said:
                        await _wait(part)
                    continue
                ids = self._encode(_written(part, request))
                ids, said = ids[said:], max(0, said - len(ids))
                if len(ids) >= room:
                    yield _delta(ids[:room], request, last=Reply((), finish_reason="length"))
                    return
                if ids:
                    yield _delta(ids, request)
                    size += len(ids) * TOKEN_BYTES
                    await _taken(sample, size)
                room -= len(ids)
            if reply.error is not None:
                raise reply.error
            yield _delta([], request, last=reply)
        finally:
            self._running -= 1
            self._keep(lease, request.tokens)

    def abort(self, id: int) -> None:
        """Nothing to do: the stream of a request is closed."""

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        return self._cache.evicted()

    def load(self) -> Load:
        """Return the present load."""
        return Load(self._running, 0, self._cache.leased * _BLOCK)

    async def reset_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        self._cache.reset()

    async def close(self) -> None:
        """Nothing to free."""

    def _keep(self, lease: Lease, tokens: bytes) -> None:
        """Cache a prompt, if there is room: as if it had been computed."""
        if self._cache.extend(lease, len(tokens) // TOKEN_BYTES):
            self._cache.store(lease, tokens, len(tokens) // TOKEN_BYTES)
        self._cache.release(lease)


def _written(part: str | ToolCall, request: EngineRequest) -> str:
    """Return what is said. Whether that fits a form that was asked for is the script's business, as all it says."""
    if isinstance(part, str):
        return part
    return part.text if request.sampling.json_schema is None else part.json


def _delta(ids: list[int], request: EngineRequest, last: Reply | None = None) -> Delta:
    count = request.sampling.logprobs
    logprobs = None if count is None else tuple(TokenLogprob(id, 0.0, ((id, 0.0),) * min(count, 1)) for id in ids)
    if last is None:
        return Delta(pack(ids), logprobs=logprobs)
    return Delta(pack(ids), finish_reason=last.finish_reason, logprobs=logprobs, output_tokens=last.output_tokens)


async def _wait(seconds: float) -> None:
    if math.isinf(seconds):
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(seconds)


async def _taken(sample: Sample, size: int) -> None:
    """Wait until so many bytes of output have been read, so that the next part is a chunk for itself."""
    while sample.request.streaming and sample.taken < size and not sample.ended:  # noqa: ASYNC110  the one who reads has nobody to tell
        await asyncio.sleep(_LOOK_AGAIN)
