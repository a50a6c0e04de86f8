"""A response as the stream of events that the protocol has: each has a number, and the last one the whole response."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

from preble.errors import PrebleError
from preble.serve.answer import Piece
from preble.serve.blocks import Blocks
from preble.serve.responses.output import Event, Output
from preble.serve.responses.response import ended, failed, usage_fields
from preble.serve.streamed import events

Logprobs = Callable[[Piece], Sequence[Event]]
"""Returns the log-probabilities of a piece's tokens in the protocol's form, none where none were asked for."""

Placed = Callable[[str], Event]
"""Returns where the request of this id went, and why."""


class Progress:
    """One response on its way from pieces to events."""

    def __init__(self, response: Event, logprobs: Logprobs, placed: Placed) -> None:
        """Begin with a response that has no output."""
        self.response = response
        self._logprobs = logprobs
        self._placed = placed
        self._blocks = Blocks()
        self._output = Output(response["id"].removeprefix("resp_"))
        self._reasoning_tokens = 0

    def begin(self) -> Iterator[Event]:
        """Yield the events before the first piece."""
        yield {"type": "response.created", "response": self.response}
        yield {"type": "response.in_progress", "response": self.response}

    def add(self, piece: Piece) -> Iterator[Event]:
        """Yield the events of a piece; with the last one, the response has ended."""
        self._reasoning_tokens += len(piece.chunk.token_ids) if piece.said.reasoning else 0
        self._output.wait(self._logprobs(piece))
        for step in self._blocks.add(piece.said):
            yield from self._output.add(step)
        if piece.finish_reason is not None:
            yield from self._end(piece, piece.finish_reason)

    def fail(self, code: str, message: str) -> Iterator[Event]:
        """Yield the event of an error that ends the response."""
        self.response = failed(self.response, self._output.items, code, message)
        yield {"type": "response.failed", "response": self.response}

    def _end(self, piece: Piece, reason: str) -> Iterator[Event]:
        for step in self._blocks.finish(cut=reason in ("length", "abort")):
            yield from self._output.add(step)
        usage = piece.chunk.usage
        where = self._placed(piece.chunk.request_id)
        counts = None if usage is None else {**usage_fields(usage, self._reasoning_tokens), "preble": where}
        self.response = ended(self.response, self._output.items, reason, counts)
        yield {"type": f"response.{self.response['status']}", "response": self.response}


async def response_events(
    pieces: AsyncIterator[Piece], progress: Progress, error_code: Callable[[PrebleError], str]
) -> AsyncGenerator[Event, None]:
    """Yield the numbered events of a response, as `serve.streamed.events`; an error ends the response as failed."""
    number = 0
    async for event in events(pieces, progress, lambda error: progress.fail(error_code(error), str(error))):
        yield {**event, "sequence_number": number}
        number += 1
