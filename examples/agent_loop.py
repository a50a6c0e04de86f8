"""Four agents at once, each a conversation of several turns in which the model calls a tool.

Every turn sends the whole conversation again. The worker that served the turn before has most of it in its KV cache,
and all agents share the system prompt: see how many prompt tokens each turn found cached. The engine is simulated:
with a model of yours, leave out `backend`.

    python examples/agent_loop.py
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from preble import PrebleCluster, SamplingParams
from preble.testing import make_model

SYSTEM = "You are a travel agent. Ask for the weather before you recommend a city. Answer in one sentence. " * 4
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TURNS = 3


def weather(city: str) -> str:
    """Do what the tool does."""
    return f"{city}: 21 degrees, no wind"


def called(text: str) -> dict[str, Any] | None:
    """Return the tool call in a model's answer, if there is one; each family of models has its own way to write it."""
    found = re.search(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    call: dict[str, Any] | None = json.loads(found[1]) if found else None
    return call


async def agent(cluster: PrebleCluster, city: str) -> None:
    """Talk until the model answers without calling a tool."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Shall I go to {city}?"},
    ]
    for turn in range(TURNS):
        out = await cluster.generate(messages, SamplingParams(max_tokens=16), tools=[WEATHER], session=city)
        usage = out.usage
        print(f"{city}, turn {turn}: {usage.cached_tokens} of {usage.prompt_tokens} tokens cached on {out.worker}")
        call = called(out.text)
        if call is None and turn < TURNS - 1:  # the simulated engine never calls: leave this out with a real one
            call = {"name": "weather", "arguments": {"city": city}}
        if call is None:
            break
        messages.append({"role": "assistant", "content": out.text})
        messages.append({"role": "tool", "content": weather(**call["arguments"])})


async def main() -> None:
    """Run the agents over one cluster."""
    model = make_model("out/model", hidden=64, layers=1)
    async with PrebleCluster(model, backend="sim", workers=2) as cluster:
        await asyncio.gather(*(agent(cluster, city) for city in ("Oslo", "Lima", "Rome", "Perth")))


if __name__ == "__main__":
    asyncio.run(main())
