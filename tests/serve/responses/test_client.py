"""`/v1/responses` as OpenAI's own client uses it, over a socket."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.serve.conftest import Face

ASK: dict[str, Any] = {"model": "m", "input": "Hello", "max_output_tokens": 8, "temperature": 0}


async def test_a_stream_adds_up_to_the_whole_answer(openai_client: AsyncOpenAI) -> None:
    whole = await openai_client.responses.create(**ASK)
    async with openai_client.responses.stream(**ASK) as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert len(texts) > 1
    assert "".join(texts) == whole.output_text
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"


async def test_a_stream_that_the_model_ends_is_completed(openai_client: AsyncOpenAI) -> None:
    whole = await openai_client.responses.create(**ASK)
    async with openai_client.responses.stream(**ASK, extra_body={"stop": whole.output_text[3]}) as stream:
        final = await stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == whole.output_text[: whole.output_text.index(whole.output_text[3])]


async def test_usage_says_what_was_cached_and_where_it_went(openai_client: AsyncOpenAI) -> None:
    fields = {**ASK, "input": "Hello " * 200}
    first, second = [await openai_client.responses.create(**fields) for _ in range(2)]
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.input_tokens == second.usage.input_tokens > 200
    assert second.usage.input_tokens_details.cached_tokens > 200
    assert second.usage.model_extra is not None
    placed = second.usage.model_extra["preble"]
    assert placed["worker"] in ("w0", "w1")


async def test_a_response_continues_another(openai_client: AsyncOpenAI) -> None:
    first = await openai_client.responses.create(**ASK)
    second = await openai_client.responses.create(**ASK, previous_response_id=first.id)
    spelled = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Hello"},
    ]
    whole = await openai_client.responses.create(**{**ASK, "input": spelled})
    assert second.previous_response_id == first.id
    assert second.output_text == whole.output_text
    assert second.usage is not None
    assert whole.usage is not None
    assert second.usage.input_tokens == whole.usage.input_tokens


async def test_a_stored_response_is_returned_and_forgotten(openai_client: AsyncOpenAI) -> None:
    async with openai_client.responses.stream(**ASK) as stream:
        made = [event async for event in stream][-1].response  # type: ignore[union-attr]
    again = await openai_client.responses.retrieve(made.id)
    assert again.output_text == made.output_text
    await openai_client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await openai_client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await openai_client.responses.delete(made.id)


async def test_what_is_not_to_be_stored_is_not_stored(openai_client: AsyncOpenAI) -> None:
    made = await openai_client.responses.create(**ASK, store=False)
    assert made.store is False
    with pytest.raises(openai.NotFoundError):
        await openai_client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as error:
        await openai_client.responses.create(**ASK, previous_response_id=made.id)
    assert error.value.code == "previous_response_not_found"
    assert error.value.param == "previous_response_id"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "colour": "red"}]}, "tools[0].colour"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.type"),
        ({"text": {"format": {"type": "text"}, "size": 1}}, "text.size"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"input": "x " * 90_000}, "input"),
    ],
)
async def test_a_wrong_field_is_named(openai_client: AsyncOpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        await openai_client.responses.create(
            **{**ASK, **{n: v for n, v in fields.items() if n in ASK}}, extra_body=fields
        )
    assert error.value.param == param


async def test_leaving_a_stream_cancels_it(openai_client: AsyncOpenAI, face: Face) -> None:
    async with openai_client.responses.stream(**{**ASK, "max_output_tokens": 4000}) as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
    await face.cluster.drain()
    assert face.cluster.stats().counters.cancelled == 1
