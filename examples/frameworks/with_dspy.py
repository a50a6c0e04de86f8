"""dspy, through litellm's session, which is one for the whole process.

pip install "preble[serve]" dspy litellm
python examples/frameworks/with_dspy.py
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import dspy
import litellm
from weather import AS_JSON, COUNT, QUESTION, WAIT, Weather, cancel, show, weather

from preble import PrebleCluster
from preble.testing import Script


def script() -> Script:
    """Return a model that writes dspy's fields: first the next step of a loop, then its answer."""
    script = Script()
    look = fields(next_thought="I look.", next_tool_name="weather", next_tool_args='{"city": "Oslo"}')
    found = fields(next_thought="I know it.", next_tool_name="finish", next_tool_args="{}")
    answer = fields(reasoning="The tool said it.", answer="It is cold in Oslo.")
    script.reply(answer, when=lambda call: "finish" in call.text and "next_tool_name" not in call.text, times=None)
    script.reply(found, when="twelve degrees", times=None)
    script.reply(look, when=QUESTION, times=None)
    script.reply("[[ ## answer ## ]]\n", "one two ", "three\n\n", "[[ ## completed ## ]]", when=COUNT, times=None)
    script.reply("[[ ## answer ## ]]\nOnce ", math.inf, when=WAIT, times=None)
    script.reply(fields(answer='{"city": "Oslo", "degrees": 12}'), when=AS_JSON, times=None)
    return script


def fields(**fields: str) -> str:
    """Return fields as dspy's models write them."""
    return "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in fields.items()) + "[[ ## completed ## ]]"


def use(cluster: PrebleCluster) -> Any:
    """Return the settings under which dspy asks the cluster."""
    litellm.aclient_session = cluster.httpx_client("httpx")
    model = dspy.LM("openai/any", engine="litellm", api_base="http://preble/v1", api_key="none", cache=False)
    return dspy.context(lm=model, adapter=dspy.ChatAdapter())


async def tool_loop(cluster: PrebleCluster) -> str:
    """Ask; dspy calls the tool, and shows the model what came of it."""
    with use(cluster):
        return str((await dspy.ReAct("question -> answer", tools=[weather]).acall(question=QUESTION)).answer)


async def stream(cluster: PrebleCluster) -> list[str]:
    """Return the pieces of an answer."""
    listener = dspy.streaming.StreamListener("answer")
    with use(cluster):
        ask = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
        return [part.chunk async for part in ask(question=COUNT) if isinstance(part, dspy.streaming.StreamResponse)]


class Find(dspy.Signature):
    """Find the weather in a text."""

    text: str = dspy.InputField()
    answer: Weather = dspy.OutputField()


async def structured(cluster: PrebleCluster) -> Weather:
    """Return an answer as an object."""
    with use(cluster):
        found: Weather = (await dspy.Predict(Find).acall(text=AS_JSON)).answer
        return found


async def cancelled(cluster: PrebleCluster) -> None:
    """Cancel a request that runs."""
    with use(cluster):
        await cancel(cluster, dspy.Predict("question -> answer").acall(question=WAIT))


if __name__ == "__main__":
    asyncio.run(show(tool_loop, stream, structured, cancelled, model=script()))
