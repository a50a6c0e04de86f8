"""An agent with one tool, over OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

INSTRUCTIONS = "You answer questions about the weather. Look it up with the tool, and never guess."
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city now.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
KNOWN = {"Oslo": "rain, 8 degrees", "Lima": "fog, 17 degrees"}


class GaveUpError(Exception):
    """The model went on calling the tool."""


def answer(client: Any, question: str, *, turns: int = 4) -> str:
    """Return the model's answer, after as many calls of the tool as it wants, at most `turns`."""
    messages: list[Any] = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
    for _ in range(turns):
        message = client.chat.completions.create(model="any", messages=messages, tools=TOOLS).choices[0].message
        if not message.tool_calls:
            return str(message.content)
        messages.append(message)
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": _called(call.function)} for call in message.tool_calls
        ]
    raise GaveUpError(f"no answer after {turns} turns")


def told(client: Any, question: str) -> Iterator[str]:
    """Yield the words of an answer as they come, without tools."""
    messages = [{"role": "user", "content": question}]
    with client.chat.completions.create(model="any", messages=messages, temperature=0, stream=True) as chunks:
        for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content


def _called(function: Any) -> str:
    """Return what the tool says, also of arguments that the model has got wrong: it may try again."""
    try:
        city = json.loads(function.arguments)["city"]
    except (ValueError, KeyError) as error:
        return f"error: wrong arguments: {error!r}"
    return KNOWN.get(city, f"error: no such city: {city}")
