"""OpenAI's agents SDK, which speaks the Responses API, or chat completions with `OpenAIChatCompletionsModel`.

pip install "preble[serve]" openai-agents
python examples/frameworks/with_openai_agents.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, function_tool
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show, weather

from preble import PrebleCluster

CONFIG = RunConfig(tracing_disabled=True)  # traces would go to OpenAI


def agent(cluster: PrebleCluster, kind: type[Any], **options: Any) -> Agent[Any]:
    """Return an agent on the cluster."""
    model = kind(model="any", openai_client=cluster.openai())
    return Agent(name="travel", instructions="You help travellers.", model=model, **options)


async def tool_loop(cluster: PrebleCluster, kind: type[Any] = OpenAIResponsesModel) -> str:
    """Ask; the SDK calls the tool."""
    helper = agent(cluster, kind, tools=[function_tool(weather)])
    return str((await Runner.run(helper, QUESTION, run_config=CONFIG)).final_output)


async def stream(cluster: PrebleCluster, kind: type[Any] = OpenAIResponsesModel) -> list[str]:
    """Return the pieces of an answer."""
    result = Runner.run_streamed(agent(cluster, kind), COUNT, run_config=CONFIG)
    events = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
    return [event.delta for event in events if event.type == "response.output_text.delta"]


async def structured(cluster: PrebleCluster, kind: type[Any] = OpenAIResponsesModel) -> Weather:
    """Return an answer as an object."""
    helper = agent(cluster, kind, output_type=Weather)
    return (await Runner.run(helper, AS_JSON, run_config=CONFIG)).final_output_as(Weather)


async def cancelled(cluster: PrebleCluster, kind: type[Any] = OpenAIResponsesModel) -> None:
    """Cancel a request that runs."""
    await cancel(cluster, Runner.run(agent(cluster, kind), WAIT, run_config=CONFIG))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
