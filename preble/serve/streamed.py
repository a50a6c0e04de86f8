"""The events of a protocol whose answers have a beginning, and an end of their own also where an error ends them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Any, Protocol

from preble.errors import PrebleError
from preble.serve.answer import Piece

Event = dict[str, Any]


class Progress(Protocol):
    """An answer on its way from pieces to events."""

    def begin(self) -> Iterable[Event]:
        """Return the events before those of the first piece."""

    def add(self, piece: Piece) -> Iterable[Event]:
        """Return the events of a piece."""


async def events(
    pieces: AsyncIterator[Piece], progress: Progress, fail: Callable[[PrebleError], Iterable[Event]]
) -> AsyncGenerator[Event, None]:
    """Yield the events of an answer, the first ones with the first piece; errors before that are raised.

    Of an error of the cluster after it, `fail` makes the last events.
    """
    begun = False
    try:
        async for piece in pieces:
            for event in () if begun else progress.begin():
                yield event
            begun = True
            for event in progress.add(piece):
                yield event
    except PrebleError as error:
        if not begun:
            raise
        for event in fail(error):
            yield event
