"""From a model's text to what it says: words for the user, reasoning, and calls of tools. Each file is one format."""

from __future__ import annotations

from preble.serve.parsers.chosen import REASONING_PARSERS, TOOL_PARSERS, Format, Make, reader, reasons, tool_format
from preble.serve.parsers.said import CallPart, Parser, Said

__all__ = [
    "REASONING_PARSERS",
    "TOOL_PARSERS",
    "CallPart",
    "Format",
    "Make",
    "Parser",
    "Said",
    "reader",
    "reasons",
    "tool_format",
]
