"""inspect-ai.

pip install "preble[serve]" inspect-ai openai
python examples/frameworks/with_inspect_ai.py
"""

from __future__ import annotations

import asyncio

from inspect_ai.model import ChatMessageUser, GenerateConfig, Model, ResponseSchema, get_model
from inspect_ai.tool import Tool, tool
from inspect_ai.util import json_schema
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show
from weather import weather as ask_weather

from preble import PrebleCluster


def chat(cluster: PrebleCluster) -> Model:
    """Return a model on the cluster. It is not remembered, since the next cluster is another one."""
    client = cluster.httpx_client("httpx2")
    return get_model(
        "openai-api/preble/any", base_url="http://preble/v1", api_key="none", http_client=client, memoize=False
    )


@tool
def weather() -> Tool:
    """Make the tool, in the way of inspect-ai."""

    async def execute(city: str) -> str:
        """Return the weather in a city.

        Args:
            city: The name of the city.
        """
        return ask_weather(city)

    return execute


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask; inspect-ai calls the tool."""
    _, output = await chat(cluster).generate_loop([ChatMessageUser(content=QUESTION)], tools=[weather()])
    return output.completion


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the answer. inspect-ai asks for it whole."""
    return [(await chat(cluster).generate(COUNT)).completion]


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object."""
    schema = ResponseSchema(name="weather", json_schema=json_schema(Weather))
    output = await chat(cluster).generate(AS_JSON, config=GenerateConfig(response_schema=schema))
    return Weather.model_validate_json(output.completion)


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    await cancel(cluster, chat(cluster).generate(WAIT))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
