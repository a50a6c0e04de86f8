"""The same request by each way in gives the same line in the decision log: no face decides anything of its own."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import openai
import pytest

from preble import PrebleCluster, SamplingParams

MESSAGES: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
SAMPLED: dict[str, Any] = {"temperature": 0.5, "seed": 3}
SESSION = "s-1"

Way = Callable[[PrebleCluster], Awaitable[None]]


async def native(cluster: PrebleCluster) -> None:
    await cluster.generate(MESSAGES, SamplingParams(max_tokens=4, **SAMPLED), session=SESSION, tools=[TOOL])


async def _chat(client: Any) -> None:
    await client.chat.completions.create(
        model="m", messages=MESSAGES, tools=[TOOL], max_tokens=4, extra_body=SAMPLED, prompt_cache_key=SESSION
    )


async def chat_in_process(cluster: PrebleCluster) -> None:
    async with cluster.openai() as client:
        await _chat(client)


async def chat_over_http(cluster: PrebleCluster) -> None:
    async with cluster.serve_http() as url, openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        await _chat(client)


async def responses(cluster: PrebleCluster) -> None:
    async with cluster.openai() as client:
        await client.responses.create(
            model="m",
            instructions="Be brief.",
            input="Hello",
            tools=[{"type": "function", **FUNCTION}],
            max_output_tokens=4,
            prompt_cache_key=SESSION,
            extra_body=SAMPLED,
        )


async def _message(client: Any) -> None:
    await client.messages.create(
        model="m",
        system="Be brief.",
        messages=MESSAGES[1:],
        tools=[{"name": "look", "description": "Looks.", "input_schema": FUNCTION["parameters"]}],
        max_tokens=4,
        metadata={"user_id": SESSION},
        extra_body=SAMPLED,
    )


async def message_in_process(cluster: PrebleCluster) -> None:
    async with cluster.anthropic() as client:
        await _message(client)


async def message_over_http(cluster: PrebleCluster) -> None:
    async with (
        cluster.serve_http() as url,
        anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key="none") as client,
    ):
        await _message(client)


async def line(way: Way, log: Path) -> dict[str, Any]:
    """Return the one decision that is logged, but for its id and the time."""
    async with PrebleCluster(backend="sim", workers=3, seed=1, processes=False, decision_log=log) as cluster:
        await way(cluster)
    return logged(log)


def logged(log: Path) -> dict[str, Any]:
    lines = [msgspec.json.decode(each, type=dict[str, Any]) for each in log.read_bytes().splitlines()]
    (submitted,) = [each for each in lines if each["event"] == "submit"]
    return {name: value for name, value in submitted.items() if name not in ("id", "now")}


@pytest.mark.parametrize(
    "way",
    [chat_in_process, chat_over_http, responses, message_in_process, message_over_http],
    ids=lambda way: way.__name__,
)
async def test_a_request_is_decided_as_the_native_one_is(way: Way, tmp_path: Path) -> None:
    expected = await line(native, tmp_path / "native.jsonl")
    assert expected["session"] == SESSION
    assert await line(way, tmp_path / "way.jsonl") == expected


async def test_a_completion_is_decided_as_native_text_is(tmp_path: Path) -> None:
    async def text(cluster: PrebleCluster) -> None:
        await cluster.generate("Hello", SamplingParams(max_tokens=4, **SAMPLED), session=SESSION)

    async def completion(cluster: PrebleCluster) -> None:
        async with cluster.openai() as client:
            body = {**SAMPLED, "prompt_cache_key": SESSION}
            await client.completions.create(model="m", prompt="Hello", max_tokens=4, extra_body=body)

    assert await line(completion, tmp_path / "a.jsonl") == await line(text, tmp_path / "b.jsonl")
