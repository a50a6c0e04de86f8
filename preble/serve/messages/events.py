"""What one sample says, as the events of a streamed message, and as the content of a whole one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

from preble.errors import PrebleError
from preble.serve.answer import Piece
from preble.serve.blocks import Begin, Blocks, End, Kind, More, Step
from preble.serve.streamed import Event, events
from preble.types import Usage

_DELTA: dict[Kind, tuple[str, str]] = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "abort": "pause_turn"}


class Progress:
    """One message on its way from pieces to events. `message` is what there is of it."""

    def __init__(self, id: str, model: str, placed: Callable[[str], Event]) -> None:
        """Begin with a message that has no content; `id` begins with `msg_`.

        `placed` returns where a request went, and why.
        """
        self._placed = placed
        self._token = id.removeprefix("msg_")
        self._blocks = Blocks()
        self._open = Begin(0, "text")
        self.message: Event = {
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage(0, 0, 0)),
        }

    def begin(self) -> Iterator[Event]:
        """Yield the event before the first piece. Its counts are 0: the engine tells them with the end."""
        yield {"type": "message_start", "message": {**self.message, "content": []}}

    def add(self, piece: Piece) -> Iterator[Event]:
        """Yield the events of a piece; with the last one, the message has ended."""
        for step in self._blocks.add(piece.said):
            yield self._event(step)
        if piece.finish_reason is not None:
            for step in self._blocks.finish(cut=piece.finish_reason in ("length", "abort")):
                yield self._event(step)
            yield self._end(piece)
            yield {"type": "message_stop"}

    def _event(self, step: Step) -> Event:
        match step:
            case Begin():
                self._open = step
                return {"type": "content_block_start", "index": step.index, "content_block": self._block("")}
            case More(text):
                kind, field = _DELTA[self._open.kind]
                return {"type": "content_block_delta", "index": self._open.index, "delta": {"type": kind, field: text}}
            case End(text, cut):
                self.message["content"].append(self._block(text, cut))
                return {"type": "content_block_stop", "index": self._open.index}

    def _block(self, text: str, cut: bool = False) -> Event:
        match self._open.kind:
            case "text":
                return {"type": "text", "text": text}
            case "reasoning":
                return {"type": "thinking", "thinking": text, "signature": ""}
        arguments = _object(text)
        if arguments is None:  # it was cut: no client may run it
            return {"type": "text", "text": text}
        id = f"toolu_{self._token}{self._open.index:02}"
        return {"type": "tool_use", "id": id, "name": self._open.name, "input": arguments}

    def _end(self, piece: Piece) -> Event:
        stop = piece.chunk.stop_reason
        sequence = stop if piece.finish_reason == "stop" and isinstance(stop, str) else None
        reason = "stop_sequence" if sequence else _REASONS.get(piece.finish_reason or "", "end_turn")
        usage = {**_usage(piece.chunk.usage or Usage(0, 0, 0)), "preble": self._placed(piece.chunk.request_id)}
        self.message.update(stop_reason=reason, stop_sequence=sequence, usage=usage)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return {"type": "message_delta", "delta": delta, "usage": usage}


async def message_events(
    pieces: AsyncIterator[Piece], progress: Progress, error_body: Callable[[PrebleError], Event]
) -> AsyncGenerator[Event, None]:
    """Yield the events of a message, as `serve.streamed.events`; an error is an event with its body."""
    async for event in events(pieces, progress, lambda error: [error_body(error)]):
        yield event


def _object(text: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (ValueError, RecursionError):
        return None


def _usage(usage: Usage) -> Event:
    """Return the counts: `input_tokens` are those that were computed, beside those that were read from a cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
