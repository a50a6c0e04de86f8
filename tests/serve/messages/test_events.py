"""The events of a message: in the protocol's order, and the whole message that they add up to."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from preble.errors import PrebleError, WorkerLostError
from preble.serve.answer import Piece
from preble.serve.errors import failure
from preble.serve.messages.errors import error_body
from preble.serve.messages.events import Progress, message_events
from preble.serve.parsers import Said
from tests.serve.said_pieces import call, pieces

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


async def stream(given: Sequence[Piece], error: PrebleError | None = None) -> tuple[list[dict[str, Any]], Message]:
    progress = Progress("msg_a", "m", lambda request_id: {})
    events = [event async for event in message_events(_come(given, error), progress, _body)]
    return events, Message.model_validate(progress.message)


def _body(error: PrebleError) -> dict[str, Any]:
    return error_body(failure(error))


async def _come(given: Sequence[Piece], error: PrebleError | None) -> AsyncIterator[Piece]:
    for piece in given:
        yield piece
    if error is not None:
        raise error


async def test_the_events_of_text_are_in_order() -> None:
    events, message = await stream(pieces(Said("Hel"), Said("lo")))
    assert [EVENT.validate_python(event).type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello"
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens == 4
    assert message.usage.cache_read_input_tokens == 8
    assert events[-2]["usage"]["output_tokens"] == message.usage.output_tokens == 2


async def test_thinking_and_tools_are_blocks_of_their_own() -> None:
    said = (Said(reasoning="hm"), call(0, "add"), call(0, None, '{"a"'), call(0, None, ":1}"))
    events, message = await stream(pieces(*said, reason="tool_calls"))
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "input_json_delta", "partial_json": '{"a"'},
        {"type": "input_json_delta", "partial_json": ":1}"},
    ]
    thinking, used = message.content
    assert thinking.type == "thinking"
    assert used.type == "tool_use"
    assert (used.name, used.input) == ("add", {"a": 1})
    assert message.stop_reason == "tool_use"
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert starts[1] == {"type": "tool_use", "id": used.id, "name": "add", "input": {}}


async def test_a_call_that_was_cut_is_no_call_in_a_whole_message() -> None:
    _, message = await stream(pieces(call(0, "add", '{"a'), reason="length"))
    assert message.stop_reason == "max_tokens"
    assert [block.type for block in message.content] == ["text"]


async def test_the_stop_sequence_that_ended_it_is_named() -> None:
    _, message = await stream(pieces(Said("Yes"), stop_reason="END"))
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


async def test_an_error_in_the_middle_is_the_last_event() -> None:
    events, _ = await stream(pieces(Said("Yes"))[:1], WorkerLostError("worker w0 is lost"))
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "overloaded_error"
    assert events[-1]["error"]["message"] == "worker w0 is lost"


async def test_an_error_before_the_first_piece_is_no_event() -> None:
    with pytest.raises(WorkerLostError):
        await stream([], WorkerLostError("worker w0 is lost"))
