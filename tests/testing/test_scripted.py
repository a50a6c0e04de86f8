"""A script: what it answers, in which pieces, what it was asked, and what happens when it knows no answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from preble import PrebleCluster, SamplingParams
from preble.errors import EngineError, InvalidRequestError
from preble.testing import Call, Reply, Script, ToolCall

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def cluster(script: Script) -> AsyncIterator[PrebleCluster]:
    async with script.cluster() as cluster:
        yield cluster
        cluster.check()


async def test_replies_come_in_turn(script: Script, cluster: PrebleCluster):
    script.reply("one")
    script.reply("two", times=2)
    answers = [(await cluster.generate(user("?"))).text for _ in range(3)]
    assert answers == ["one", "two", "two"]
    assert script.unused == []


async def test_the_first_reply_whose_condition_holds(script: Script, cluster: PrebleCluster):
    script.reply("rain", when="weather", times=None)
    script.reply("deep", when=lambda call: len(call.messages) > 1)
    script.reply("else")
    deep = [*user("a"), {"role": "assistant", "content": "b"}, *user("c")]
    asked = [user("the weather?"), user("hello"), deep, user("weather again")]
    assert [(await cluster.generate(each)).text for each in asked] == ["rain", "else", "deep", "rain"]


async def test_a_stream_has_the_pieces_of_the_reply(script: Script, cluster: PrebleCluster):
    script.reply("Hel", "lo, ", 0.001, "wörld")
    chunks = [chunk async for chunk in cluster.stream(user("?"))]
    assert [chunk.text for chunk in chunks if chunk.text] == ["Hel", "lo, ", "wörld"]
    assert chunks[-1].finish_reason == "stop"


async def test_pieces_stay_apart_beside_other_streams(script: Script, cluster: PrebleCluster):
    script.reply("a", "b", "c", "d", times=None)

    async def pieces() -> list[str]:
        return [chunk.text async for chunk in cluster.stream(user("?")) if chunk.text]

    assert await asyncio.gather(*(pieces() for _ in range(20))) == [["a", "b", "c", "d"]] * 20


async def test_what_was_asked_is_kept(script: Script, cluster: PrebleCluster):
    script.reply("ok", times=None)
    sampling = SamplingParams(temperature=0.5, max_tokens=7)
    await cluster.generate(user("look"), sampling, tools=[WEATHER], session="s", request_id="mine")
    await cluster.generate("plain text")
    chat, plain = script.calls
    assert (chat.messages, chat.text, chat.sampling, chat.request_id) == (user("look"), "look", sampling, "mine")
    assert chat.tools == [WEATHER]
    assert chat.options.session == "s"
    assert "weather" in chat.rendered
    assert (plain.messages, plain.prompt, plain.text) == ((), "plain text", "plain text")


async def test_a_call_of_a_tool_is_written_as_hermes_does(script: Script, cluster: PrebleCluster):
    script.reply("Let me see. ", ToolCall("weather", {"city": "Oslo"}))
    script.call_tool("weather", city="Oslo")
    both = [(await cluster.generate(user("?"), tools=[WEATHER])).text for _ in range(2)]
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert both == [f"Let me see. {call}", call]


async def test_a_request_that_nothing_answers_fails_with_its_prompt(script: Script, cluster: PrebleCluster):
    script.reply("one")
    await cluster.generate(user("first"))
    script.check()
    with pytest.raises(InvalidRequestError, match=r"nothing in the script answers.*second"):
        await cluster.generate(user("second"))
    assert [call.text for call in script.unanswered] == ["second"]
    with pytest.raises(AssertionError, match="second"):
        script.check()
    script.clear()
    script.check()


async def test_errors_come_after_the_parts(script: Script, cluster: PrebleCluster):
    script.reply("so far", error=InvalidRequestError("too rude", field="messages"))
    stream, text = cluster.stream(user("?")), ""
    while text != "so far":
        text += (await anext(stream)).text
    with pytest.raises(InvalidRequestError, match="too rude"):
        await anext(stream)


async def test_an_error_of_the_engine_is_the_same_on_each_worker(script: Script, cluster: PrebleCluster):
    script.reply(error=EngineError("out of memory"))
    script.reply("fine")
    with pytest.raises(EngineError, match="out of memory"):
        await cluster.generate(user("?"))
    assert (await cluster.generate(user("?"))).text == "fine"


async def test_a_reply_that_never_ends_can_be_cancelled(script: Script, cluster: PrebleCluster):
    script.reply("so far", math.inf, "never")
    script.reply("next")
    stream = cluster.stream(user("?"))
    while "so far" not in (await anext(stream)).text:
        pass
    await stream.aclose()
    assert (await cluster.generate(user("?"))).text == "next"
    assert cluster.stats().in_flight == 0


async def test_a_reply_ends_at_max_tokens_if_there_is_one(script: Script, cluster: PrebleCluster):
    script.reply("x" * 500, times=None)
    cut = await cluster.generate("?", SamplingParams(max_tokens=3))
    assert (cut.text, cut.finish_reason) == ("xxx", "length")
    whole = await cluster.generate("?")
    assert (len(whole.text), whole.finish_reason) == (500, "stop")


async def test_samples_of_one_request_have_one_reply(script: Script, cluster: PrebleCluster):
    script.reply("same")
    script.reply("other")
    out = await cluster.generate(user("?"), SamplingParams(n=3, logprobs=0))
    assert [choice.text for choice in out.choices] == ["same"] * 3
    assert [len(choice.logprobs or ()) for choice in out.choices] == [4] * 3
    assert len(script.calls) == 1


async def test_prompts_are_really_cached(script: Script, cluster: PrebleCluster):
    script.reply("ok", times=None)
    long = user("x" * 2000)
    first = await cluster.generate(long)
    again = await cluster.generate([*long, {"role": "assistant", "content": "ok"}, *user("more")])
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens >= 1984
    assert again.worker == first.worker


async def test_a_reply_goes_on_where_a_lost_worker_has_left_it(script: Script, cluster: PrebleCluster):
    script.reply("one ", "two ", math.inf)
    script.reply("other", times=None)
    texts = []
    stream = cluster.stream(user("?"))
    while "".join(texts) != "one two ":
        chunk = await anext(stream)
        texts.append(chunk.text)
    await cluster.remove_worker(chunk.worker)
    waiting = asyncio.ensure_future(anext(stream))
    assert (await cluster.generate(user("another"))).text == "other"
    assert not waiting.done()
    assert len(script.calls) == 2, "a second attempt is no second call"
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_answers_from_elsewhere():
    async def answerer(call: Call) -> Reply:
        return Reply((call.text.upper(),))

    script = Script(answerer)
    async with script.cluster() as cluster:
        assert (await cluster.generate(user("shout"))).text == "SHOUT"
    script.check()


def test_parts_are_checked(script: Script):
    with pytest.raises(TypeError, match="not None"):
        script.reply(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1 seconds"):
        script.reply(-1)
