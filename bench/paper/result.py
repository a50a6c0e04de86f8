"""A whole run as it is kept: its figures, and what made them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.paper.ratios import metrics
from bench.paper.run import Results
from bench.report import commit, earlier, machine


class Document(msgspec.Struct, frozen=True):
    """What `--json` writes: as all benchmarks do, and the results whole."""

    name: str
    date: str
    commit: str | None
    machine: dict[str, Any]
    metrics: dict[str, float]
    results: Results


def document(results: Results) -> Document:
    """Return the results with their metrics, dated now."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Document("paper", date, commit(), machine(), metrics(results), results)


def read(path: Path) -> Document:
    """Return what was written before. Raises SystemExit if it is not there."""
    return earlier(path, Document)
