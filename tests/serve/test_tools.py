"""Tool calls and reasoning over OpenAI's own client, on answers that a test writes."""

from __future__ import annotations

import json

import pytest

from preble.client import http_client
from preble.testing import Script
from preble.testing.replies import ToolCall

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
ASKED = [{"role": "user", "content": "How is the weather in Paris?"}]


@pytest.fixture
async def script():
    script = Script()
    yield script
    script.check()


async def test_a_tool_loop_of_two_turns(script):
    script.reply("I look. ", ToolCall("weather", {"city": "Paris"}), when="weather")
    script.reply("It rains.", when="17 degrees")
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        first = await client.chat.completions.create(model="any", messages=ASKED, tools=TOOLS)
        (choice,) = first.choices
        (call,) = choice.message.tool_calls
        assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
        result = {"role": "tool", "tool_call_id": call.id, "content": "17 degrees, rain"}
        messages = [*ASKED, choice.message.model_dump(exclude_none=True), result]
        second = await client.chat.completions.create(model="any", messages=messages, tools=TOOLS)
    assert (second.choices[0].message.content, second.choices[0].finish_reason) == ("It rains.", "stop")
    assert "17 degrees" in script.calls[1].rendered
    assert '"city": "Paris"' in script.calls[1].rendered


async def test_the_arguments_of_a_call_stream(script):
    script.reply('<tool_call>{"name": "weather", "argu', 'ments": {"city": "P', 'aris"}}</tool', "_call>")
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        stream = await client.chat.completions.create(model="any", messages=ASKED, tools=TOOLS, stream=True)
        async with stream:
            choices = [chunk.choices[0] async for chunk in stream]
    parts = [part for choice in choices for part in choice.delta.tool_calls or []]
    assert [part.function.name for part in parts if part.function.name] == ["weather"]
    assert "".join(part.function.arguments or "" for part in parts) == '{"city": "Paris"}'
    assert len(parts) > 1
    assert (parts[0].type, bool(parts[0].id), parts[1].id) == ("function", True, None)
    assert choices[-1].finish_reason == "tool_calls"
    assert not any(choice.delta.content for choice in choices)


async def test_a_call_that_the_limit_cuts_off_ends_as_length(script):
    script.reply(ToolCall("weather", {"city": "Paris"}))
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        answer = await client.chat.completions.create(model="any", messages=ASKED, tools=TOOLS, max_tokens=50)
    assert answer.choices[0].finish_reason == "length"


async def test_without_tools_a_call_is_text(script):
    script.reply(ToolCall("weather", {"city": "Paris"}), times=2)
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        for given in ({}, {"tools": TOOLS, "tool_choice": "none"}):
            answer = await client.chat.completions.create(model="any", messages=ASKED, **given)
            assert answer.choices[0].message.tool_calls is None
            assert answer.choices[0].message.content.startswith("<tool_call>")


async def test_a_call_that_is_required_and_an_answer_in_json_are_what_the_script_says(script):
    script.call_tool("weather", city="Paris")
    script.reply('{"degrees": 17}')
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": {"type": "object"}}}
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        called = await client.chat.completions.create(model="any", messages=ASKED, tools=TOOLS, tool_choice="required")
        answer = await client.chat.completions.create(model="any", messages=ASKED, response_format=form)
    (call,) = called.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    assert answer.choices[0].message.content == '{"degrees": 17}'
    assert json.loads(script.calls[1].sampling.json_schema) == {"type": "object"}


async def test_parallel_calls_unless_they_are_not_wanted(script):
    script.reply(ToolCall("weather", {"city": "Paris"}), ToolCall("weather", {"city": "Rome"}), times=2)
    async with script.cluster(workers=1) as cluster, cluster.openai() as client:
        counts = []
        for parallel in (True, False):
            answer = await client.chat.completions.create(
                model="any", messages=ASKED, tools=TOOLS, parallel_tool_calls=parallel
            )
            counts.append(len(answer.choices[0].message.tool_calls))
            assert len({call.id for call in answer.choices[0].message.tool_calls}) == counts[-1]
    assert counts == [2, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_is_told_apart(script, stream):
    script.reply("<think>hm", "m</think>\n", "It rains.")
    async with script.cluster(workers=1) as cluster, http_client(cluster.asgi(reasoning_parser="think")) as client:
        text = (await client.post("/v1/chat/completions", json={"messages": ASKED, "stream": stream})).text
    if not stream:
        message = json.loads(text)["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == ("It rains.", "hmm")
        return
    lines = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n")[:-2]]
    deltas = [line["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hmm"
    assert "".join(delta.get("content", "") for delta in deltas) == "It rains."
