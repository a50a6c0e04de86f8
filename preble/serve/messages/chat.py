"""A request of the Messages protocol as a request for a chat completion, of which it is another spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preble.errors import InvalidRequestError
from preble.serve.messages.body import MessageBody, Tool, ToolChoice
from preble.serve.messages.content import chat_messages

SPELLED = {
    "prompt": "messages",
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
"""Fields of chat completions by which a wrong one is found, and what they are called here."""

_THINKS = {"enabled": True, "disabled": False}


def chat_fields(body: MessageBody, passed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the chat completion."""
    choice, output = body.tool_choice, body.output_config
    fields = {
        "model": body.model,
        "messages": chat_messages(body.system, body.messages),
        "max_completion_tokens": body.max_tokens,
        "stop": body.stop_sequences or None,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "tools": [_tool(tool) for tool in body.tools] if body.tools else None,
        "tool_choice": _choice(choice) if choice else None,
        "parallel_tool_calls": False if choice and choice.disable_parallel_tool_use else None,
        "reasoning_effort": output.effort if output else None,
        "response_format": _response_format(output.format.schema) if output and output.format else None,
        "stream": body.stream,
        **passed,
        "chat_template_kwargs": _template_fields(body, passed),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _tool(tool: Tool) -> dict[str, Any]:
    fields = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {name: value for name, value in fields.items() if value is not None}}


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.type == "tool":
        if choice.name is None:
            raise InvalidRequestError("is required: the tool to call", field="tool_choice.name")
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.type == "any" else choice.type


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": True}}


def _template_fields(body: MessageBody, passed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the template's variables: `enable_thinking`, which Qwen's and others' read, as `thinking` says."""
    given = passed.get("chat_template_kwargs")
    if body.thinking is None or body.thinking.type not in _THINKS:
        return given
    if not isinstance(given, dict | None):
        raise InvalidRequestError("must be an object", field="chat_template_kwargs")
    return {"enable_thinking": _THINKS[body.thinking.type], **(given or {})}
