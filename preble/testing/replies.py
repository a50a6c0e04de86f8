"""What a scripted model says, and what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from preble.cluster.prompt import Prompt
from preble.errors import PrebleError
from preble.types import FinishReason, RequestOptions, SamplingParams


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool as a part of a reply, written as Hermes models do."""

    name: str
    arguments: Mapping[str, Any] = {}

    @property
    def json(self) -> str:
        """The call alone, as a model writes it that is held to the form of one (`tool_choice="required"`)."""
        return json.dumps({"name": self.name, "arguments": dict(self.arguments)})

    @property
    def text(self) -> str:
        """What a model writes for it."""
        return f"<tool_call>\n{self.json}\n</tool_call>"


class Call(msgspec.Struct, frozen=True, eq=False):
    """What was asked: `prompt` as it was passed, `sampling`, and the other `options` of the request.

    `rendered` is the text that the model saw.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingParams
    options: RequestOptions
    rendered: str

    @property
    def messages(self) -> Sequence[Any]:
        """The chat messages, none for another prompt."""
        prompt = self.prompt
        chat = isinstance(prompt, (list, tuple)) and not isinstance(prompt[0], int)
        return prompt if chat else ()  # type: ignore[return-value]

    @property
    def text(self) -> str:
        """The text of the last message; for other prompts what the model saw."""
        if not self.messages:
            return self.rendered
        content = _field(self.messages[-1], "content")
        if content is None or isinstance(content, str):
            return content or ""
        return "".join(_field(part, "text") or "" for part in content)

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:
        """The tools that were shown, as JSON schemas."""
        return self.options.tools or ()


Part: TypeAlias = str | ToolCall | float
"""Text, a call, or seconds to wait; `math.inf` waits until the request is cancelled."""

When: TypeAlias = str | Callable[[Call], bool]
"""Text that the last message contains, or a function of the call."""


class Reply(msgspec.Struct, frozen=True):
    """One answer: `parts` in order, then `error` or the end. It answers `times` requests for which `when` holds.

    `output_tokens` is their number as another engine has counted it, if it was one that said this.
    """

    parts: tuple[Part, ...]
    when: When | None = None
    times: int | None = 1
    error: PrebleError | None = None
    finish_reason: FinishReason = "stop"
    output_tokens: int | None = None

    def fits(self, call: Call) -> bool:
        """Return whether it may answer this call."""
        if isinstance(self.when, str):
            return self.when in call.text
        return self.when is None or self.when(call)


def check_parts(parts: Sequence[Part]) -> None:
    """Raise TypeError for what no reply can have in it, ValueError for a negative time."""
    for part in parts:
        if not isinstance(part, (str, ToolCall, int, float)) or isinstance(part, bool):
            raise TypeError(f"a part of a reply is text, a ToolCall or seconds, not {part!r}")
        if isinstance(part, (int, float)) and not part >= 0:
            raise ValueError(f"a reply cannot wait for {part!r} seconds")


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
