"""An answer as a sequence of blocks: reasoning, text, calls. What the Responses and the Messages protocol stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from preble.serve.parsers import CallPart, Said

Kind = Literal["reasoning", "text", "call"]


class Begin(msgspec.Struct, frozen=True):
    """Block `index`, counted from 0, begins; `name` is that of the tool that a call is of."""

    index: int
    kind: Kind
    name: str = ""


class More(msgspec.Struct, frozen=True):
    """The next text of the block that is open: of a call, that of its arguments."""

    text: str


class End(msgspec.Struct, frozen=True):
    """The block that is open ends; `text` is all of it. It is `cut` if the answer ended before it did."""

    text: str
    cut: bool = False


Step: TypeAlias = Begin | More | End


class Blocks:
    """Cuts what one sample says into blocks, of which one is open at a time.

    White space alone is no block: what stands between calls, or before the first word, waits for a word.
    """

    def __init__(self) -> None:
        """Begin with no block."""
        self._open: Begin | None = None
        self._texts: list[str] = []
        self._count = 0
        self._call = -1  # the parser's number of the latest call
        self._space = ""

    def add(self, said: Said) -> Iterator[Step]:
        """Yield the steps that `said` is. What continues the open call comes first."""
        mine = [part for part in said.calls if part.name is None and part.index == self._call]
        for part in mine:
            yield from self._more("call", part.arguments)
        yield from self._more("reasoning", said.reasoning)
        yield from self._more("text", said.text)
        for part in said.calls[len(mine) :]:
            yield from self._part(part)

    def finish(self, *, cut: bool = False) -> Iterator[Step]:
        """Yield the last steps: the open block ends. An answer without any block is an empty text."""
        if self._count == 0:
            yield from self._begin("text")
            yield from self._text(self._space)
        yield from self._end(cut)

    def _part(self, part: CallPart) -> Iterator[Step]:
        if part.name is not None:
            self._call = part.index
            yield from self._begin("call", part.name)
        if part.arguments:
            yield from self._text(part.arguments)

    def _more(self, kind: Kind, text: str) -> Iterator[Step]:
        if not text:
            return
        if self._open is None or self._open.kind != kind:
            if not text.strip():
                self._space += text if kind == "text" else ""
                return
            text = self._space + text if kind == "text" else text
            yield from self._begin(kind)
        yield from self._text(text)

    def _begin(self, kind: Kind, name: str = "") -> Iterator[Step]:
        yield from self._end()
        self._open = Begin(self._count, kind, name)
        self._count += 1
        if kind != "text":
            self._space = ""
        yield self._open

    def _text(self, text: str) -> Iterator[Step]:
        if text:
            self._texts.append(text)
            yield More(text)

    def _end(self, cut: bool = False) -> Iterator[Step]:
        if self._open is not None:
            yield End("".join(self._texts), cut)
            self._open, self._texts = None, []
