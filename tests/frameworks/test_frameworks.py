"""Agent frameworks as their users call them: what is tested are the examples, on answers that a script gives."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from preble import PrebleCluster
from preble.testing import Script

FOLDER = Path(__file__).parents[2] / "examples" / "frameworks"
BY_GENERATION = {
    2: ("openai", "litellm", "llama_index", "dspy", "smolagents", "crewai"),
    3: ("openai", "openai_agents", "openai_agents chat", "pydantic_ai", "langgraph", "autogen", "inspect_ai"),
}
"""Which examples need which client of OpenAI."""
WHOLE = {"crewai", "inspect_ai"}
"""Those that hand over what streams as one text."""

GENERATION = os.environ.get("PREBLE_FRAMEWORKS")
"""Which client must be here; without it these tests are for another environment."""
if GENERATION is None:
    pytest.skip("make test-frameworks has the frameworks", allow_module_level=True)
FRAMEWORKS = BY_GENERATION[int(GENERATION)]


class Framework:
    """An example, and a cluster of two workers that answers as the script says."""

    def __init__(self, module: ModuleType, options: dict[str, Any], script: Script, cluster: PrebleCluster) -> None:
        self.module, self.options, self.script, self.cluster = module, options, script, cluster

    async def run(self, function: str) -> Any:
        """What one of the example's functions returns."""
        async with asyncio.timeout(120):
            return await getattr(self.module, function)(self.cluster, **self.options)


@pytest.fixture(params=FRAMEWORKS)
async def framework(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Framework]:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    name, _, kind = request.param.partition(" ")
    module = importlib.import_module(f"with_{name}")
    make: Callable[[], Script] = getattr(module, "script", importlib.import_module("weather").script)
    options = {"kind": importlib.import_module("agents").OpenAIChatCompletionsModel} if kind else {}
    script = make()
    async with script.cluster(workers=2) as cluster:
        yield Framework(module, options, script, cluster)
        async with asyncio.timeout(120):
            while cluster.stats().in_flight:
                await asyncio.sleep(0.01)
        cluster.check()
    script.check()


async def test_a_tool_loop_of_two_turns(framework):
    assert await framework.run("tool_loop") == "It is cold in Oslo."
    first, *_, last = framework.script.calls
    assert "twelve degrees" not in first.rendered
    assert "How is the weather in Oslo?" in first.rendered
    assert "twelve degrees" in last.rendered
    assert "weather" in last.rendered


async def test_a_stream(framework, request):
    pieces = await framework.run("stream")
    assert "".join(pieces).strip('"') == "one two three"
    name = request.node.callspec.params["framework"]
    assert (len(pieces) > 1) == (name not in WHOLE)


async def test_a_structured_answer(framework):
    answer = await framework.run("structured")
    assert (type(answer).__name__, answer.city, answer.degrees) == ("Weather", "Oslo", 12)


async def test_a_cancelled_request_ends(framework):
    before = framework.cluster.stats().counters.cancelled
    await framework.run("cancelled")
    async with asyncio.timeout(120):
        while framework.cluster.stats().counters.cancelled == before:
            await asyncio.sleep(0.01)


def test_the_client_is_of_the_generation():
    assert openai.__version__.partition(".")[0] == GENERATION


def test_every_example_is_in_a_generation():
    named = {name.partition(" ")[0] for names in BY_GENERATION.values() for name in names}
    assert {path.stem for path in FOLDER.glob("with_*.py")} == {f"with_{name}" for name in named}
