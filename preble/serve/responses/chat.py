"""A request of the Responses protocol as a request for a chat completion, of which it is another spelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preble.serve.responses.body import ResponseBody
from preble.serve.responses.items import Message
from preble.serve.responses.tools import chat_choice, chat_tools, response_format

_SAME = ("model", "temperature", "top_p", "parallel_tool_calls", "stream")

SPELLED = {
    "prompt": "input",
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Fields of chat completions by which a wrong one is found, and what they are called here."""


def chat_fields(body: ResponseBody, messages: Sequence[Message], passed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the chat completion; `messages` are all of the conversation but the instructions."""
    system = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    fields = {
        "messages": [*system, *messages],
        "max_completion_tokens": body.max_output_tokens,
        "tools": chat_tools(body.tools) if body.tools else None,
        "tool_choice": None if body.tool_choice is None else chat_choice(body.tool_choice),
        "response_format": response_format(body.text.format) if body.text and body.text.format else None,
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        **{name: getattr(body, name) for name in _SAME},
        **_logprobs(body),
        **passed,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _logprobs(body: ResponseBody) -> dict[str, Any]:
    wanted = "message.output_text.logprobs" in (body.include or ()) or bool(body.top_logprobs)
    return {"logprobs": True, "top_logprobs": body.top_logprobs or 0} if wanted else {}
