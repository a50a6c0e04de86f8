"""Tests of the agent: a scripted model where the test is about the agent, a recorded one where it is about words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import weather_agent

from preble import PrebleCluster
from preble.errors import EngineError
from preble.pytest_plugin.chaos import Chaos
from preble.pytest_plugin.model import ScriptedModel
from preble.testing import ToolCall, real_model


def test_it_looks_the_weather_up(preble_llm: ScriptedModel, preble_openai: Any) -> None:
    preble_llm.call_tool("weather", city="Oslo")
    preble_llm.reply("Take an umbrella.", when="rain, 8 degrees")

    assert weather_agent.answer(preble_openai, "What do I need in Oslo?") == "Take an umbrella."

    first, second = preble_llm.calls
    assert first.tools == weather_agent.TOOLS
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "tool"]


def test_the_model_hears_of_wrong_arguments(preble_llm: ScriptedModel, preble_openai: Any) -> None:
    preble_llm.call_tool("weather", town="Oslo")
    preble_llm.call_tool("weather", city="Atlantis")
    preble_llm.reply("I do not know.")

    assert weather_agent.answer(preble_openai, "How is it in Atlantis?") == "I do not know."

    assert [call.text for call in preble_llm.calls[1:]] == [
        "error: wrong arguments: KeyError('city')",
        "error: no such city: Atlantis",
    ]


def test_it_gives_up_in_the_end(preble_llm: ScriptedModel, preble_openai: Any) -> None:
    preble_llm.reply(ToolCall("weather", {"city": "Lima"}), times=None)
    with pytest.raises(weather_agent.GaveUpError):
        weather_agent.answer(preble_openai, "And in Lima?", turns=3)
    assert len(preble_llm.calls) == 3


def test_words_come_as_they_are_made(preble_llm: ScriptedModel, preble_openai: Any) -> None:
    preble_llm.reply("It ", "rains", ".")
    assert list(weather_agent.told(preble_openai, "How is it?")) == ["It ", "rains", "."]


def test_a_broken_engine_is_an_error_of_the_client(preble_llm: ScriptedModel, preble_openai: Any) -> None:
    preble_llm.reply("It ", error=EngineError("out of memory"))
    words = weather_agent.told(preble_openai, "How is it?")
    assert next(words) == "It "
    with pytest.raises(Exception, match="out of memory"):
        list(words)


def test_nobody_notices_a_lost_worker(preble_llm: ScriptedModel, preble_openai: Any, preble_chaos: Chaos) -> None:
    preble_llm.reply("It ", "rains", 0.2, " a lot.")
    words = weather_agent.told(preble_openai, "How is it?")
    said = [next(words), next(words)]
    lost = preble_chaos.kill(preble_llm.cluster.receipt(preble_llm.calls[0].request_id).worker)
    assert [*said, *words] == ["It ", "rains", " a lot."]
    assert lost not in preble_llm.cluster.workers


def test_each_turn_finds_the_turns_before_in_the_cache(preble_llm: ScriptedModel, preble_openai: Any) -> None:
    preble_llm.call_tool("weather", city="Oslo")
    preble_llm.call_tool("weather", city="Lima")
    preble_llm.reply("Lima is warmer.")

    weather_agent.answer(preble_openai, "Is it warmer in Oslo or in Lima?")

    cached = [preble_llm.cluster.receipt(call.request_id).cached_tokens or 0 for call in preble_llm.calls]
    assert cached[0] == 0
    assert 300 < cached[1] < cached[2]
    assert preble_llm.cluster.hit_ratio() > 0.5


def test_what_a_real_model_says(preble_replay: Callable[..., ScriptedModel]) -> None:
    """Recorded with `pytest --preble-record`; without that option no model is needed."""
    model = preble_replay("answers.json", lambda: PrebleCluster(real_model(), workers=1))
    with model.cluster.openai() as client:
        assert "Paris" in "".join(weather_agent.told(client, "What is the capital of France?"))
