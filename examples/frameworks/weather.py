"""What the examples of frameworks share: a tool, questions, and a scripted model that answers them.

With a model of yours, the cluster is `PrebleCluster("path/to/model", workers=2)`, and the rest stays as it is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pydantic import BaseModel

from preble import PrebleCluster
from preble.testing import Call, Script, ToolCall

QUESTION = "How is the weather in Oslo?"
COUNT = "Count to three."
WAIT = "Write a very long story."
AS_JSON = "Say as JSON what the city and its degrees are: it is 12 degrees in Oslo."


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def weather(city: str) -> str:
    """Return the weather in a city.

    Args:
        city: The name of the city.
    """
    return f"In {city} it has twelve degrees."


def script(answer: Weather | str = '{"city": "Oslo", "degrees": 12}') -> Script:
    """Return a model that calls the tool, then says what it found; it knows the other questions too."""
    script = Script()
    script.reply("It is cold ", "in Oslo.", when=lambda call: "twelve degrees" in said(call), times=None)
    script.reply("one ", "two ", "three", when=COUNT, times=None)
    script.reply("Once ", "upon ", math.inf, when=WAIT, times=None)
    script.reply(str(answer), when=AS_JSON, times=None)
    script.reply(ToolCall("weather", {"city": "Oslo"}), when=QUESTION, times=None)
    return script


def said(call: Call) -> str:
    """Return what the model was told last."""
    return call.text


async def cancel(cluster: PrebleCluster, asking: Coroutine[Any, Any, Any]) -> None:
    """Start to ask, and cancel it once a worker has the request."""
    task = asyncio.ensure_future(asking)
    while not cluster.stats().in_flight and not task.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    task.cancel()
    done, _ = await asyncio.wait([task])
    if not task.cancelled():
        raise AssertionError(f"it ended before it was cancelled: {done}")


async def show(*functions: Callable[[PrebleCluster], Awaitable[Any]], model: Script | None = None) -> None:
    """Run the functions of an example on two workers, and print what they return."""
    async with (model or script()).cluster(workers=2) as cluster:
        for function in functions:
            print(f"{function.__name__}: {await function(cluster)!r}")
        await cluster.drain()
        print(f"{cluster.stats().counters.cancelled} cancelled, none left in flight")
