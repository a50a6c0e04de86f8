"""llama-index.

pip install "preble[serve]" llama-index-llms-openai-like
python examples/frameworks/with_llama_index.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show, weather

from preble import PrebleCluster


def chat(cluster: PrebleCluster, **options: Any) -> OpenAILike:
    """Return a model on the cluster; it must be told what the model can do."""
    client = cluster.httpx_client("httpx")
    known = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 8192}
    return OpenAILike(
        model="any", api_base="http://preble/v1", api_key="none", async_http_client=client, **known, **options
    )


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask; llama-index calls the tool."""
    return str(await FunctionAgent(tools=[weather], llm=chat(cluster)).run(QUESTION))


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the pieces of an answer."""
    chunks = await chat(cluster).astream_chat([ChatMessage(COUNT)])
    return [str(chunk.delta) async for chunk in chunks if chunk.delta]


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object, by `response_format`."""
    model = chat(cluster, should_use_structured_outputs=True)
    return await model.astructured_predict(Weather, PromptTemplate(AS_JSON))


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    await cancel(cluster, chat(cluster).achat([ChatMessage(WAIT)]))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled))
