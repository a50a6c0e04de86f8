"""crewai, which makes its own client: so over HTTP.

pip install "preble[serve]" crewai
python examples/frameworks/with_crewai.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from crewai import LLM, Agent
from crewai.tools import tool
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show
from weather import weather as ask_weather

from preble import PrebleCluster


@tool
def weather(city: str) -> str:
    """Return the weather in a city."""
    return ask_weather(city)


def chat(url: str, **options: Any) -> LLM:
    """Return a model on a server."""
    return LLM(model="openai/any", base_url=url, api_key="none", **options)


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask; crewai calls the tool."""
    async with cluster.serve_http() as url:
        agent = Agent(role="guide", goal="help travellers", backstory="", llm=chat(url), tools=[weather])
        return str((await agent.kickoff_async(QUESTION)).raw)


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the answer, which crewai puts together from a stream; its pieces go to crewai's event bus."""
    async with cluster.serve_http() as url:
        return [str(await chat(url, stream=True).acall(COUNT))]


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object."""
    async with cluster.serve_http() as url:
        found = await chat(url).acall(AS_JSON, response_model=Weather)
        return found if isinstance(found, Weather) else Weather.model_validate_json(found)


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    async with cluster.serve_http() as url:
        await cancel(cluster, chat(url).acall(WAIT))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
