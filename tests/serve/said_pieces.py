"""Pieces of an answer, as the cluster and a parser would give them."""

from preble import Chunk
from preble.serve.answer import FinishReason, Piece
from preble.serve.parsers import CallPart, Said
from preble.types import Usage


def call(index: int, name: str | None, arguments: str = "") -> Said:
    return Said(calls=(CallPart(index, name, arguments),))


def pieces(*said: Said, reason: FinishReason = "stop", stop_reason: str | None = None) -> list[Piece]:
    """One token for each of `said`, then a piece with nothing but the end."""
    shown = [Piece(Chunk(0, each.text, (7,)), each, None) for each in said]
    usage = Usage(prompt_tokens=12, cached_tokens=8, output_tokens=len(said))
    end = Chunk(0, "", (), finish_reason="stop", stop_reason=stop_reason, usage=usage)
    return [*shown, Piece(end, Said(), reason)]
