"""Messages and their blocks as the messages of a chat, and wrong ones named."""

from typing import Any, Literal

import pytest

from preble.errors import InvalidRequestError
from preble.serve.messages.body import Block, Turn
from preble.serve.messages.content import chat_messages

RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}]}
USE = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}


def chat(role: Literal["user", "assistant"], *blocks: Block) -> list[dict[str, Any]]:
    return chat_messages(None, [Turn(role, list(blocks))])


def test_the_system_prompt_is_the_first_message() -> None:
    hint = {"type": "ephemeral", "ttl": "1h"}
    system = [{"type": "text", "text": "Be brief.", "cache_control": hint}]
    assert chat_messages(system, [Turn("user", "Hi")]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


def test_results_of_tools_come_before_what_the_user_says() -> None:
    assert chat("user", {"type": "text", "text": "And now?"}, RESULT) == [
        {"role": "tool", "tool_call_id": "t1", "content": "2"},
        {"role": "user", "content": "And now?"},
    ]


def test_the_blocks_of_the_assistant_are_one_message() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert chat("assistant", thinking, {"type": "text", "text": "Let me see."}, USE) == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}],
        }
    ]


@pytest.mark.parametrize(
    ("role", "block", "field"),
    [
        ("user", {"type": "image", "source": {}}, ""),
        ("user", {"type": None}, ""),
        ("user", USE, ""),
        ("assistant", RESULT, ""),
        ("user", {"type": "text"}, ".text"),
        ("user", {"type": "text", "text": "a", "bold": True}, ".bold"),
        ("user", {"type": "text", "text": "a", "cache_control": {"type": "for ever"}}, ".cache_control"),
        ("user", {"type": "tool_result"}, ".tool_use_id"),
        ("user", {**RESULT, "content": 2}, ".content"),
        ("user", {**RESULT, "content": [{"type": "image"}]}, ".content[0]"),
        ("assistant", {**USE, "input": "{}"}, ".input"),
        ("assistant", {"type": "thinking"}, ".thinking"),
        ("assistant", {"type": "redacted_thinking", "data": "x"}, ""),
    ],
)
def test_a_wrong_block_is_named(role: Literal["user", "assistant"], block: Block, field: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        chat(role, block)
    assert error.value.field == f"messages[0].content[0]{field}"
