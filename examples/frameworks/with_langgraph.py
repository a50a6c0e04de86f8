"""langchain-openai, and an agent of langgraph.

pip install "preble[serve]" langchain-openai langgraph
python examples/frameworks/with_langgraph.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show, weather

from preble import PrebleCluster


def chat(cluster: PrebleCluster) -> ChatOpenAI:
    """Return a model on the cluster. Calls without `await` would need `http_client` as well."""
    client = cluster.httpx_client("httpx2")
    return ChatOpenAI(model="any", base_url="http://preble/v1", api_key="none", http_async_client=client)


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask; the graph goes from the model to the tool and back."""
    tools = [tool(weather)]
    model = chat(cluster).bind_tools(tools)

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", tools_condition)
    graph.add_edge("tools", "ask")
    state = await graph.compile().ainvoke({"messages": [("user", QUESTION)]})
    return str(state["messages"][-1].content)


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the pieces of an answer."""
    return [str(chunk.content) async for chunk in chat(cluster).astream(COUNT) if chunk.content]


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object, by `response_format`."""
    model = chat(cluster).with_structured_output(Weather, method="json_schema")
    found: Weather = await model.ainvoke(AS_JSON)
    return found


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    await cancel(cluster, chat(cluster).ainvoke(WAIT))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
