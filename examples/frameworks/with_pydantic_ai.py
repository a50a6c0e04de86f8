"""pydantic-ai.

pip install "preble[serve]" "pydantic-ai-slim[openai]"
python examples/frameworks/with_pydantic_ai.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show, weather

from preble import PrebleCluster


def agent(cluster: PrebleCluster, **options: Any) -> Agent[None, Any]:
    """Return an agent on the cluster."""
    return Agent(OpenAIChatModel("any", provider=OpenAIProvider(openai_client=cluster.openai())), **options)


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask; pydantic-ai calls the tool."""
    return str((await agent(cluster, tools=[weather]).run(QUESTION)).output)


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the pieces of an answer, each as it comes."""
    async with agent(cluster).run_stream(COUNT) as result:
        return [text async for text in result.stream_text(delta=True, debounce_by=None)]


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object, by `response_format`."""
    found: Weather = (await agent(cluster, output_type=NativeOutput(Weather)).run(AS_JSON)).output
    return found


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    await cancel(cluster, agent(cluster).run(WAIT))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
