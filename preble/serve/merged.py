"""Several answers as one sequence, in the order in which their pieces come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from preble.serve.answer import Piece

_AHEAD = 64
"""Pieces that wait to be read, before the answers wait too."""


async def merged(answers: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[tuple[int, Piece], None]:
    """Yield the pieces with the number of their answer. Closing it closes them all, and so does the first error."""
    if len(answers) == 1:
        async with aclosing(answers[0]):
            async for piece in answers[0]:
                yield 0, piece
        return
    pieces: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue(_AHEAD)
    readers = [asyncio.ensure_future(_read(number, each, pieces)) for number, each in enumerate(answers)]
    try:
        left = len(readers)
        while left:
            number, next_piece = await pieces.get()
            if next_piece is None:
                left -= 1
                await readers[number]  # raises what ended it
            else:
                yield number, next_piece
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(
    number: int, answer: AsyncGenerator[Piece, None], pieces: asyncio.Queue[tuple[int, Piece | None]]
) -> None:
    try:
        async with aclosing(answer):
            async for piece in answer:
                await pieces.put((number, piece))
    finally:
        await pieces.put((number, None))
