"""autogen.

pip install "preble[serve]" "autogen-ext[openai]" autogen-agentchat
python examples/frameworks/with_autogen.py
"""

from __future__ import annotations

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelInfo, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show, weather

from preble import PrebleCluster

INFO = ModelInfo(vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True)


def chat(cluster: PrebleCluster) -> OpenAIChatCompletionClient:
    """Return a model on the cluster; it must be told what the model can do."""
    where = {"base_url": "http://preble/v1", "api_key": "none", "http_client": cluster.httpx_client("httpx2")}
    return OpenAIChatCompletionClient(model="any", model_info=INFO, **where)


def user(text: str) -> UserMessage:
    """Return a message."""
    return UserMessage(content=text, source="user")


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask; the agent calls the tool and asks again."""
    agent = AssistantAgent("travel", chat(cluster), tools=[weather], reflect_on_tool_use=True)
    return str((await agent.run(task=QUESTION)).messages[-1].to_text())


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the pieces of an answer."""
    return [piece async for piece in chat(cluster).create_stream([user(COUNT)]) if isinstance(piece, str)]


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object."""
    answer = await chat(cluster).create([user(AS_JSON)], json_output=Weather)
    return Weather.model_validate_json(str(answer.content))


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    await cancel(cluster, chat(cluster).create([user(WAIT)]))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
