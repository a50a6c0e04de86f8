"""A batch job: 200 prompts that share instructions, token ids in and token ids out, in the order of the prompts.

It runs on the simulated engine, which needs no model and makes up tokens. With a model of yours, leave out `backend`
and `engine_options`, and pass texts or chats instead of token ids.

    python examples/batch.py
"""

from __future__ import annotations

import asyncio
import sys

from preble import PrebleCluster, SamplingParams

INSTRUCTIONS = list(range(1000, 1800))
PROMPTS = [[*INSTRUCTIONS, *range(question, question + 100)] for question in range(2000, 22_000, 100)]


def show(done: int) -> None:
    """Show progress where errors go."""
    if done % 50 == 0:
        sys.stderr.write(f"{done} of {len(PROMPTS)} prompts done\n")


async def main() -> None:
    """Generate for all prompts, at most 32 at a time."""
    async with PrebleCluster(backend="sim", workers=4, engine_options={"time_scale": 0.1}) as cluster:
        outs = await cluster.generate_many(PROMPTS, SamplingParams(max_tokens=8), concurrency=32, progress=show)
    prompt = sum(out.usage.prompt_tokens for out in outs)
    cached = sum(out.usage.cached_tokens for out in outs)
    print(f"{len(outs)} generations, {sum(len(out.token_ids) for out in outs)} tokens")
    print(f"{cached / prompt:.0%} of the prompt tokens were cached")


if __name__ == "__main__":
    asyncio.run(main())
