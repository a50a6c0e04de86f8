"""OpenAI's own client, 2.x and 3.x.

pip install "preble[serve]" openai
python examples/frameworks/with_openai.py
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show, weather

from preble import PrebleCluster

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def user(text: str) -> dict[str, Any]:
    """Return a message."""
    return {"role": "user", "content": text}


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask until the model calls no tool."""
    messages: list[Any] = [user(QUESTION)]
    async with cluster.openai() as client:
        while True:
            answer = await client.chat.completions.create(model="any", messages=messages, tools=[TOOL])
            message = answer.choices[0].message
            if not message.tool_calls:
                return str(message.content)
            messages.append(message)
            for call in message.tool_calls:
                result = weather(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the pieces of an answer."""
    async with cluster.openai() as client:
        chunks = await client.chat.completions.create(model="any", messages=[user(COUNT)], stream=True)
        async with chunks:
            return [chunk.choices[0].delta.content async for chunk in chunks if chunk.choices[0].delta.content]


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object."""
    async with cluster.openai() as client:
        answer = await client.chat.completions.parse(model="any", messages=[user(AS_JSON)], response_format=Weather)
        found: Weather = answer.choices[0].message.parsed
        return found


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    async with cluster.openai() as client:
        await cancel(cluster, client.chat.completions.create(model="any", messages=[user(WAIT)]))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
