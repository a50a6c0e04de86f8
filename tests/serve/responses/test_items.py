"""Input items as the messages of a chat, and wrong ones named."""

from typing import Any

import pytest

from preble.errors import InvalidRequestError
from preble.serve.responses.items import messages_of

CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a":1}'}
CALLED = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "2"}


def test_text_is_what_the_user_says() -> None:
    assert messages_of("hello") == [{"role": "user", "content": "hello"}]


def test_a_message_needs_no_type_and_its_parts_are_text() -> None:
    item = {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}
    assert messages_of([item]) == [{"role": "system", "content": "Be brief."}]
    item = {"role": "user", "content": [{"type": "input_text", "text": text} for text in "ab"]}
    assert messages_of([item])[0]["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_what_the_model_said_in_a_turn_is_one_message() -> None:
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]}
    first, second = messages_of([reasoning, said, CALL, CALL, RESULT])
    assert first["reasoning_content"] == "hm"
    assert first["content"] == "Let me see."
    assert first["tool_calls"] == [CALLED, CALLED]
    assert second == {"role": "tool", "tool_call_id": "c1", "content": "2"}


def test_text_after_calls_is_another_message() -> None:
    said = {"role": "assistant", "content": "Done."}
    assert [message["role"] for message in messages_of([CALL, said])] == ["assistant", "assistant"]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"type": "web_search_call"}, "input[0]"),
        ({"type": ["message"]}, "input[0]"),
        ({"role": "robot", "content": "x"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_text", "text": 1}]}, "input[0].content[0].text"),
        ({"role": "user", "content": [{"type": "input_text", "text": "a", "bold": 1}]}, "input[0].content[0].bold"),
        ({"role": "user", "content": "x", "nmae": "y"}, "input[0].nmae"),
        ({**CALL, "arguments": {}}, "input[0].arguments"),
        ({**RESULT, "call_id": None}, "input[0].call_id"),
        ({"type": "reasoning", "content": "x"}, "input[0].content"),
        ({"type": "reasoning", "encrypted_content": "x"}, "input[0].encrypted_content"),
    ],
)
def test_a_wrong_item_is_named(item: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        messages_of([item])
    assert error.value.field == field
