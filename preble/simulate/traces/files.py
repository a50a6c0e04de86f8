"""Files of traces, compressed by gzip or not: lines of JSON, and CSV with a header."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec

UNNAMED = 1 << 40
"""Segments from here on are content that a trace gives no id, shared by nobody."""


def records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one a line."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with _open(path) as file:
        for line in file:
            if line.strip():
                yield decode(line)


def rows(path: str | Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV file, the header first."""
    with _open(path) as file:
        yield from (row for row in csv.reader(file) if row)


def named_rows(path: str | Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file by the names in its header."""
    with _open(path) as file:
        yield from csv.DictReader(file)


def _open(path: str | Path) -> TextIO:
    if str(path).endswith(".gz"):
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    return Path(path).open(encoding="utf-8-sig")
