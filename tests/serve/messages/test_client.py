"""`/v1/messages` as Anthropic's own client uses it, over a socket."""

from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.serve.conftest import Face

ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "Hello"}],
    "extra_body": {"temperature": 0},
}
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {}}}


async def test_a_stream_adds_up_to_the_whole_answer(anthropic_client: AsyncAnthropic) -> None:
    whole = await anthropic_client.messages.create(**ASK)
    async with anthropic_client.messages.stream(**ASK) as stream:
        texts = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert len(texts) > 1
    assert whole.content[0].type == "text"
    assert "".join(texts) == whole.content[0].text
    assert [block.text for block in final.content if block.type == "text"] == [whole.content[0].text]
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == whole.usage.output_tokens == 8


async def test_usage_divides_the_prompt_into_cached_and_computed(anthropic_client: AsyncAnthropic) -> None:
    hint = {"type": "ephemeral"}
    text = {"type": "text", "text": "Hello " * 200, "cache_control": hint}
    fields = {**ASK, "system": [text]}
    counted = await anthropic_client.messages.count_tokens(
        model="m",
        system=fields["system"],
        messages=ASK["messages"],
    )
    for _ in range(2):
        usage = (await anthropic_client.messages.create(**fields)).usage
        assert usage.cache_read_input_tokens is not None
        assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens
    assert usage.cache_read_input_tokens > 200


async def test_tools_count_as_part_of_the_prompt(anthropic_client: AsyncAnthropic) -> None:
    fields: dict[str, Any] = {"model": "m", "messages": ASK["messages"]}
    plain = await anthropic_client.messages.count_tokens(**fields)
    shown = await anthropic_client.messages.count_tokens(**fields, tools=[TOOL])
    none = await anthropic_client.messages.count_tokens(**fields, tools=[TOOL], tool_choice={"type": "none"})
    assert plain.input_tokens == none.input_tokens < shown.input_tokens


async def test_a_stop_sequence_is_named(anthropic_client: AsyncAnthropic) -> None:
    whole = await anthropic_client.messages.create(**ASK)
    assert whole.content[0].type == "text"
    letter = whole.content[0].text[3]
    stopped = await anthropic_client.messages.create(**ASK, stop_sequences=[letter])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", letter)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop": ["x"]}, "stop"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"system": "x " * 90_000}, "messages"),
    ],
)
async def test_a_wrong_field_is_named(anthropic_client: AsyncAnthropic, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as error:
        await anthropic_client.messages.create(**{**ASK, "extra_body": fields})
    told = error.value.body
    assert isinstance(told, dict)
    assert told["type"] == "error"
    assert told["error"]["type"] == "invalid_request_error"
    assert told["error"]["param"] == param


async def test_leaving_a_stream_cancels_it(anthropic_client: AsyncAnthropic, face: Face) -> None:
    async with anthropic_client.messages.stream(**{**ASK, "max_tokens": 4000}) as stream:
        async for _ in stream.text_stream:
            break
    await face.cluster.drain()
    assert face.cluster.stats().counters.cancelled == 1
