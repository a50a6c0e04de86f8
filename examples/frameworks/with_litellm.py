"""litellm.

pip install "preble[serve]" litellm
python examples/frameworks/with_litellm.py
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from litellm import acompletion
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show, weather
from with_openai import TOOL, user

from preble import PrebleCluster


async def ask(cluster: PrebleCluster, messages: list[Any], **options: Any) -> Any:
    """Ask the cluster; litellm takes its client for this one call."""
    return await acompletion(model="openai/any", messages=messages, client=cluster.openai(), **options)


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask until the model calls no tool."""
    messages: list[Any] = [user(QUESTION)]
    while True:
        message = (await ask(cluster, messages, tools=[TOOL])).choices[0].message
        if not message.tool_calls:
            return str(message.content)
        messages.append(message)
        for call in message.tool_calls:
            result = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the pieces of an answer."""
    chunks = await ask(cluster, [user(COUNT)], stream=True)
    return [chunk.choices[0].delta.content async for chunk in chunks if chunk.choices[0].delta.content]


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object."""
    answer = await ask(cluster, [user(AS_JSON)], response_format=Weather)
    return Weather.model_validate_json(answer.choices[0].message.content)


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    await cancel(cluster, ask(cluster, [user(WAIT)]))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
