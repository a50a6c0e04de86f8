"""From a model's text to what it says: words for the user, reasoning, and calls of tools. Each file is one format."""

from __future__ import annotations

from preble.serve.parsers.said import CallPart, Parser, Said

__all__ = ["CallPart", "Parser", "Said"]
