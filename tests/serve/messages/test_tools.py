"""Tools over `/v1/messages`, on answers that a test writes, with Anthropic's own client."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from preble.client import anthropic_client
from preble.testing import Script
from preble.testing.replies import ToolCall

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"name": "weather", "input_schema": SCHEMA}]
ASKED: dict[str, Any] = {"role": "user", "content": "How is the weather in Paris?"}


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.check()


async def test_a_tool_loop_of_two_turns(script: Script) -> None:
    script.reply("I look. ", ToolCall("weather", {"city": "Paris"}), when="weather")
    script.reply("It rains.", when="17 degrees")
    async with script.cluster(workers=1) as cluster, cluster.anthropic() as client:
        first = await client.messages.create(model="m", max_tokens=100, messages=[ASKED], tools=TOOLS)
        text, use = first.content
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "17 degrees, rain"}
        said = {"role": "assistant", "content": [block.to_dict() for block in first.content]}
        messages = [ASKED, said, {"role": "user", "content": [result]}]
        second = await client.messages.create(model="m", max_tokens=100, messages=messages, tools=TOOLS)
    assert (text.type, use.name, use.input) == ("text", "weather", {"city": "Paris"})
    assert (first.stop_reason, second.stop_reason) == ("tool_use", "end_turn")
    assert second.content[0].text == "It rains."
    assert [message["role"] for message in script.calls[1].messages] == ["user", "assistant", "tool"]


async def test_the_input_of_a_tool_streams(script: Script) -> None:
    script.reply('<tool_call>{"name": "weather", "argu', 'ments": {"city": "P', 'aris"}}</tool', "_call>")
    async with (
        script.cluster(workers=1) as cluster,
        cluster.anthropic() as client,
        client.messages.stream(model="m", max_tokens=100, messages=[ASKED], tools=TOOLS) as stream,
    ):
        parts = [event.partial_json async for event in stream if event.type == "input_json"]
        final = await stream.get_final_message()
    assert len(parts) > 1
    assert "".join(parts) == '{"city": "Paris"}'
    assert final.content[0].input == {"city": "Paris"}
    assert final.stop_reason == "tool_use"


async def test_what_no_tool_may_be_called_for_shows_none(script: Script) -> None:
    script.reply("No.")
    async with script.cluster(workers=1) as cluster, cluster.anthropic() as client:
        none = {"type": "none"}
        await client.messages.create(model="m", max_tokens=9, messages=[ASKED], tools=TOOLS, tool_choice=none)
    assert not script.calls[0].tools


async def test_reasoning_is_a_thinking_block_that_is_sent_back(script: Script) -> None:
    script.reply("<think>17 is mild.</think>Mild.", when="Paris")
    script.reply("Yes.", when="Sure?")
    async with script.cluster(workers=1) as cluster, anthropic_client(cluster.asgi(reasoning_parser="think")) as client:
        first = await client.messages.create(model="m", max_tokens=100, messages=[ASKED])
        thinking, text = first.content
        said = {"role": "assistant", "content": [block.to_dict() for block in first.content]}
        messages = [ASKED, said, {"role": "user", "content": "Sure?"}]
        await client.messages.create(model="m", max_tokens=100, messages=messages)
    assert (thinking.thinking, text.text) == ("17 is mild.", "Mild.")
    assert script.calls[1].messages[1]["reasoning_content"] == "17 is mild."


async def test_a_wrong_key_is_refused_in_the_form_of_the_protocol(script: Script) -> None:
    async with (
        script.cluster(workers=1) as cluster,
        anthropic_client(cluster.asgi(api_key="right"), api_key="wrong", max_retries=0) as client,
    ):
        with pytest.raises(anthropic.AuthenticationError) as error:
            await client.messages.create(model="m", max_tokens=9, messages=[ASKED])
    assert error.value.body["type"] == "error"
    assert error.value.body["error"]["type"] == "authentication_error"
