"""The scheduler alone, around engines that are yours: acquire a worker, use it, release it.

No processes and no I/O: `Scheduler` is told what happens and when, and says where each request goes.

    python examples/bare_scheduler.py
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

from preble import Scheduler

SECONDS_PER_TOKEN = 2e-6


class YourEngine:
    """Stands for whatever you call: it computes a prompt, then yields a token at a time."""

    async def generate(self, prompt: list[int], cached_tokens: int) -> AsyncIterator[int]:
        """Yield eight tokens."""
        await asyncio.sleep(SECONDS_PER_TOKEN * (len(prompt) - cached_tokens))
        for token in range(8):
            yield token


class Router:
    """Engines by name, and the scheduler that chooses among them."""

    def __init__(self, engines: dict[str, YourEngine]) -> None:
        self.engines = engines
        self.scheduler = Scheduler(policy="e2", seed=1)
        for name in engines:
            self.scheduler.add_worker(name, kv_tokens=200_000, block_size=16, now=time.monotonic())

    async def generate(self, id: str, prompt: list[int], tenant: str = "") -> tuple[str, list[int]]:
        """Return the worker's name and the tokens."""
        placement = self.scheduler.submit(id, prompt, max_tokens=8, tenant=tenant, now=time.monotonic())  # acquire
        output: list[int] = []
        try:
            self.scheduler.started(id, cached_tokens=placement.cached_tokens, now=time.monotonic())
            async for token in self.engines[placement.worker].generate(prompt, placement.cached_tokens):
                if not output:
                    self.scheduler.first_token(id, now=time.monotonic())
                output.append(token)
            return placement.worker, output
        finally:  # however it ended: finished, failed or cancelled
            self.scheduler.finish(id, output=output, now=time.monotonic())  # release


async def main() -> None:
    """Send 100 requests about five manuals through three engines."""
    router = Router({name: YourEngine() for name in ("a", "b", "c")})
    manuals = [[manual] * 2000 for manual in range(10, 15)]
    draw = random.Random(0)
    prompts = [draw.choice(manuals) + [100 + number] * 50 for number in range(100)]
    served = await asyncio.gather(*(router.generate(f"r{number}", prompt) for number, prompt in enumerate(prompts)))
    cached = sum(router.scheduler.explain(f"r{number}").cached_tokens or 0 for number in range(len(prompts)))
    print(f"requests by engine: {dict(sorted(Counter(worker for worker, _ in served).items()))}")
    print(f"{cached / sum(map(len, prompts)):.0%} of the prompt tokens were cached")


if __name__ == "__main__":
    asyncio.run(main())
