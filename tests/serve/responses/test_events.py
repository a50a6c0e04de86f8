"""The events of a response: in the protocol's order, each with a number, and the last with all that was said."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from preble.errors import PrebleError, WorkerLostError
from preble.serve.answer import Piece
from preble.serve.parsers import Said
from preble.serve.responses.body import ResponseBody
from preble.serve.responses.events import Progress, response_events
from preble.serve.responses.response import begun
from tests.serve.said_pieces import call, pieces

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


async def stream(given: Sequence[Piece], error: PrebleError | None = None) -> list[Any]:
    """The events, read as OpenAI's client reads them, strictly."""
    first = begun(ResponseBody(input="x"), id="resp_a", created_at=1, model="m")
    progress = Progress(first, lambda piece: [], lambda request_id: {"request_id": request_id})
    events = [event async for event in response_events(_come(given, error), progress, lambda error: "server_error")]
    return [EVENT.validate_python(event) for event in events]


async def _come(given: Sequence[Piece], error: PrebleError | None) -> AsyncIterator[Piece]:
    for piece in given:
        yield piece
    if error is not None:
        raise error


async def test_the_events_of_text_are_in_order() -> None:
    events = await stream(pieces(Said("Hel"), Said("lo")))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    response: Response = events[-1].response
    assert response.output_text == "Hello"
    assert response.usage is not None
    assert response.usage.input_tokens == 12
    assert response.usage.input_tokens_details.cached_tokens == 8
    assert response.usage.output_tokens == 2


async def test_reasoning_and_calls_are_items_of_their_own() -> None:
    said = (Said(reasoning="hm"), call(0, "add"), call(0, None, '{"a":1}'))
    events = await stream(pieces(*said, reason="tool_calls"))
    assert [event.type for event in events[2:-1]] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    reasoning, called = events[-1].response.output
    assert reasoning.content[0].text == "hm"
    assert (called.name, called.arguments, called.status) == ("add", '{"a":1}', "completed")
    assert events[-1].response.usage.output_tokens_details.reasoning_tokens == 1
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {reasoning.id, called.id}


async def test_a_limit_on_tokens_makes_the_response_and_its_last_item_incomplete() -> None:
    *_, last = await stream(pieces(Said("Yes"), call(0, "add", '{"a'), reason="length"))
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert [item.status for item in last.response.output] == ["completed", "incomplete"]


async def test_an_error_in_the_middle_is_the_last_event() -> None:
    *_, last = await stream(pieces(Said("Yes"))[:1], WorkerLostError("worker w0 is lost"))
    assert last.type == "response.failed"
    assert last.response.error.code == "server_error"
    assert "w0" in last.response.error.message


async def test_an_error_before_the_first_piece_is_no_event() -> None:
    with pytest.raises(WorkerLostError):
        await stream([], WorkerLostError("worker w0 is lost"))
