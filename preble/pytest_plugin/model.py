"""A scripted model and the cluster that serves it."""

from __future__ import annotations

from typing import Any

from preble.errors import PrebleError
from preble.pytest_plugin.facade import Cluster
from preble.testing import Call, Reply, Script
from preble.testing.replies import Part, When


class ScriptedModel:
    """What a test tells a model to say: a `preble.testing.Script`, and a `cluster` that follows it.

    >>> def test_my_agent(preble_llm):
    ...     preble_llm.reply("It rains.", when="weather")
    ...     assert "rain" in my_agent(preble_llm.url)
    ...     assert preble_llm.calls[0].tools
    """

    def __init__(self, script: Script, cluster: Cluster) -> None:
        self.script = script
        self.cluster = cluster

    def reply(
        self, *parts: Part, when: When | None = None, times: int | None = 1, error: PrebleError | None = None
    ) -> None:
        """As `Script.reply`."""
        self.script.reply(*parts, when=when, times=times, error=error)

    def call_tool(self, name: str, /, **arguments: Any) -> None:
        """As `Script.call_tool`."""
        self.script.call_tool(name, **arguments)

    @property
    def calls(self) -> list[Call]:
        """What was asked, in order."""
        return self.script.calls

    @property
    def unused(self) -> list[Reply]:
        """The replies that nobody asked for."""
        return self.script.unused

    @property
    def unanswered(self) -> list[Call]:
        """What nothing answers. Clear this list if the test is about that; else the test fails."""
        return self.script.unanswered

    @property
    def url(self) -> str:
        """The base URL of an OpenAI server that serves it."""
        return self.cluster.url
