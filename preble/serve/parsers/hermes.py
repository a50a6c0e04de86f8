"""Hermes, Qwen and SmolLM: `<tool_call>{"name": "f", "arguments": {...}}</tool_call>`."""

from __future__ import annotations

from preble.serve.parsers.marked import Marked
from preble.serve.parsers.objects import OneObject

_BEGIN, _END = "<tool_call>", "</tool_call>"
SPECIAL = frozenset({_BEGIN, _END})
"""Special tokens of some models, which must stay in the text."""


def hermes() -> Marked:
    """Return a parser."""
    return Marked([_BEGIN], [_END], OneObject)
