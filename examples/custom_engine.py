"""An engine of your own, named by its module and class: it answers with the prompt's tokens in reverse.

python examples/custom_engine.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from msgspec.structs import replace

from preble import EngineInfo, PrebleCluster, SamplingParams
from preble.backends import Delta, EngineRequest, Evicted, Load
from preble.tokens import pack, unpack


class ReverseEngine:
    """The methods of `preble.backends.Engine`; each worker process makes one, with the cluster's `engine_options`."""

    def __init__(self, *, model: str | None = None) -> None:
        self._aborted: set[int] = set()

    async def start(self) -> EngineInfo:
        info = EngineInfo(
            model="reverse", vocab_size=50_000, context_limit=99, kv_tokens=99, block_size=1, max_running=8
        )
        return replace(info, reports_steps=False)  # it has no `timings`

    async def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        yield Delta(b"", cached_tokens=0)  # the request is admitted, and nothing was cached
        output = unpack(request.tokens)[::-1][: request.sampling.token_limit]
        for number, token in enumerate(output, start=1):
            await asyncio.sleep(0.001)
            if request.id in self._aborted:
                yield Delta(b"", finish_reason="abort")
                return
            yield Delta(pack([token]), finish_reason="length" if number == len(output) else None)

    def abort(self, id: int) -> None:
        self._aborted.add(id)

    def cache_events(self) -> list[Evicted]:
        return []

    def load(self) -> Load:
        return Load(running=0, waiting=0, used_tokens=0)

    async def reset_cache(self) -> None: ...

    async def close(self) -> None: ...


async def main() -> None:
    """Use it as any other."""
    async with PrebleCluster(backend="custom_engine:ReverseEngine", workers=2) as cluster:
        out = await cluster.generate([1, 2, 3, 4], SamplingParams(max_tokens=3))
        print(out.token_ids, out.finish_reason)


if __name__ == "__main__":
    asyncio.run(main())
