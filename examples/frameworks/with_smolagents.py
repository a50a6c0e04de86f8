"""smolagents, whose agents are synchronous: they run in a thread, and the cluster's event loop serves them.

pip install "preble[serve]" "smolagents[openai]"
python examples/frameworks/with_smolagents.py
"""

from __future__ import annotations

import asyncio

from smolagents import ChatMessage, MessageRole, OpenAIModel, ToolCallingAgent, tool
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, show, weather
from weather import script as plain_script

from preble import PrebleCluster
from preble.testing import Script, ToolCall


def script() -> Script:
    """Return a model that ends a loop as smolagents wants it: with the tool `final_answer`."""
    script = Script()
    script.reply(ToolCall("final_answer", {"answer": "It is cold in Oslo."}), when="twelve degrees", times=None)
    for reply in plain_script().unused:
        script.reply(*reply.parts, when=reply.when, times=None)
    return script


def chat(cluster: PrebleCluster) -> OpenAIModel:
    """Return a model on the cluster."""
    model = OpenAIModel("any", api_base="http://preble/v1", api_key="none")
    model.client = cluster.openai_sync()
    return model


def user(text: str) -> list[ChatMessage]:
    """Return a conversation."""
    return [ChatMessage(role=MessageRole.USER, content=text)]


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask; the agent calls the tool."""
    agent = ToolCallingAgent(tools=[tool(weather)], model=chat(cluster), verbosity_level=0)
    return str(await asyncio.to_thread(agent.run, QUESTION))


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the pieces of an answer."""
    model = chat(cluster)
    return await asyncio.to_thread(
        lambda: [delta.content for delta in model.generate_stream(user(COUNT)) if delta.content]
    )


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object."""
    form = {
        "type": "json_schema",
        "json_schema": {"name": "weather", "schema": Weather.model_json_schema(), "strict": True},
    }
    answer = await asyncio.to_thread(chat(cluster).generate, user(AS_JSON), response_format=form)
    return Weather.model_validate_json(str(answer.content))


async def cancelled(cluster: PrebleCluster) -> None:
    """Leave a stream after its first piece, which ends the request."""
    model = chat(cluster)

    def leave() -> None:
        pieces = model.generate_stream(user(WAIT))
        next(pieces)
        pieces.close()

    await asyncio.to_thread(leave)


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled, model=script()))
