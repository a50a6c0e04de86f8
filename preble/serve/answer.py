"""One request of any protocol, and its answer piece by piece: what every endpoint asks of the cluster."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Literal

import msgspec

from preble import Chunk, PrebleCluster, SamplingParams
from preble.cluster.prompt import Prompt
from preble.errors import InvalidRequestError
from preble.serve.errors import renamed
from preble.serve.parsers import Parser, Said
from preble.types import RequestKeywords

FinishReason = Literal["stop", "length", "tool_calls", "abort"]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the cluster takes it. `make_parser` makes a reader for each sample; None leaves its text alone.

    `names` says which fields of the body stand for fields that the cluster names in its errors.
    """

    prompt: Prompt
    sampling: SamplingParams
    options: RequestKeywords
    make_parser: Callable[[], Parser] | None = None
    names: Mapping[str, str] = {}


class Piece(msgspec.Struct, frozen=True):
    """A chunk of the cluster, what it says, and on a sample's last piece why it ended."""

    chunk: Chunk
    said: Said
    finish_reason: FinishReason | None


async def answer(cluster: PrebleCluster, ask: Ask) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of all samples as they come; closing it cancels the request. Raises what `stream` does."""
    parsers: dict[int, Parser] = {}
    called: set[int] = set()
    try:
        async with aclosing(cluster.stream(ask.prompt, ask.sampling, **ask.options)) as chunks:
            async for chunk in chunks:
                said = Said(text=chunk.text)
                if ask.make_parser is not None:
                    if chunk.index not in parsers:
                        parsers[chunk.index] = ask.make_parser()
                    parser = parsers[chunk.index]
                    said = _joined(parser.add(chunk.text), parser.finish() if chunk.finish_reason else Said())
                if said.calls:
                    called.add(chunk.index)
                yield Piece(chunk, said, _reason(chunk, called))
    except InvalidRequestError as error:
        raise renamed(error, ask.names) from None


def _joined(first: Said, last: Said) -> Said:
    return Said(first.text + last.text, first.reasoning + last.reasoning, first.calls + last.calls)


def _reason(chunk: Chunk, called: set[int]) -> FinishReason | None:
    """Return the reason of the protocols: an answer that ends itself after a call waits for the tool."""
    return "tool_calls" if chunk.finish_reason == "stop" and chunk.index in called else chunk.finish_reason
