"""Calls and reasoning over `/v1/responses`, on answers that a test writes, with OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from preble.client import openai_client
from preble.testing import Script
from preble.testing.replies import ToolCall

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}]
ASKED = "How is the weather in Paris?"


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.check()


@pytest.mark.parametrize("stored", [True, False])
async def test_a_tool_loop_of_two_turns(script: Script, stored: bool) -> None:
    script.reply("I look. ", ToolCall("weather", {"city": "Paris"}), when="weather")
    script.reply("It rains.", when="17 degrees")
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        first = await client.responses.create(model="m", input=ASKED, tools=TOOLS, store=stored)
        text, call = first.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "17 degrees, rain"}
        before = [{"role": "user", "content": ASKED}, *[item.to_dict() for item in first.output]]
        asked = {"input": [result], "previous_response_id": first.id} if stored else {"input": [*before, result]}
        second = await client.responses.create(model="m", tools=TOOLS, **asked)
    assert (text.type, call.type, call.name) == ("message", "function_call", "weather")
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert second.output_text == "It rains."
    assert [message["role"] for message in script.calls[1].messages] == ["user", "assistant", "tool"]
    assert '"city": "Paris"' in script.calls[1].rendered


async def test_the_arguments_of_a_call_stream(script: Script) -> None:
    script.reply('<tool_call>{"name": "weather", "argu', 'ments": {"city": "P', 'aris"}}</tool', "_call>")
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        async with client.responses.stream(model="m", input=ASKED, tools=TOOLS) as stream:
            deltas = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
        (call,) = (await stream.get_final_response()).output
    assert len(deltas) > 1
    assert json.loads("".join(deltas)) == json.loads(call.arguments) == {"city": "Paris"}


async def test_a_call_that_is_cut_is_incomplete(script: Script) -> None:
    script.reply('<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>')
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        made = await client.responses.create(model="m", input=ASKED, tools=TOOLS, max_output_tokens=50)
    assert made.status == "incomplete"
    assert made.output[-1].status == "incomplete"


async def test_reasoning_is_an_item_that_is_sent_back(script: Script) -> None:
    script.reply("<think>17 is mild.</think>Mild.", when="Paris")
    script.reply("Yes.", when="Sure?")
    async with script.cluster(workers=1) as cluster, openai_client(cluster.asgi(reasoning_parser="think")) as client:
        first = await client.responses.create(model="m", input=ASKED)
        await client.responses.create(model="m", input="Sure?", previous_response_id=first.id)
    reasoning, text = first.output
    assert (reasoning.content[0].text, text.content[0].text) == ("17 is mild.", "Mild.")
    assert script.calls[1].messages[1]["reasoning_content"] == "17 is mild."
