"""DeepSeek: calls between tokens of their own; the name stands alone, or in a line behind the word `function`."""

from __future__ import annotations

from functools import partial

from preble.serve.parsers.marked import Marked
from preble.serve.parsers.named import NamedCall

BEGIN, _SEPARATOR, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_ALL = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
SPECIAL = frozenset({BEGIN, _SEPARATOR, _END, *_ALL})
"""Special tokens, which must stay in the text."""


def deepseek() -> Marked:
    """Return a parser."""
    return Marked([BEGIN], ["```" + _END, _END, *_ALL], partial(NamedCall, [_SEPARATOR], kind="function"))
