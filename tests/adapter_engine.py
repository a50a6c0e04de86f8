"""An engine that has adapters, and shows which it was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load
from preble.backends.sim import SimEngine
from preble.tokens import pack


class AdapterEngine:
    """The `sim` engine with the adapters `sql` and `chat`: each token is the first letter of the adapter's name."""

    def __init__(self, **options: object) -> None:
        self._engine = SimEngine()

    async def start(self) -> EngineInfo:
        return msgspec.structs.replace(await self._engine.start(), adapters=("sql", "chat"))

    async def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        async for delta in self._engine.generate(request):
            letter = pack([ord((request.lora or "-")[0])])
            yield Delta(letter * (len(delta.tokens) // len(letter)), delta.cached_tokens, delta.finish_reason)

    def abort(self, id: int) -> None:
        self._engine.abort(id)

    def cache_events(self) -> list[Evicted]:
        return self._engine.cache_events()

    def load(self) -> Load:
        return self._engine.load()

    async def reset_cache(self) -> None:
        await self._engine.reset_cache()

    async def close(self) -> None:
        await self._engine.close()
