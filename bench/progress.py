"""Progress on a terminal as a bar, elsewhere as a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how much of `total` is done; what is yielded is to be called after each step."""
    with (_bar if sys.stdout.isatty() else _lines)(title, total) as advance:
        yield advance


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def _lines(title: str, total: int) -> Iterator[Callable[[], None]]:
    begin = shown = time.monotonic()
    done = 0

    def show() -> None:
        sys.stdout.write(f"{title:<14} {done}/{total}  {shown - begin:.0f} s\n")
        sys.stdout.flush()

    def advance() -> None:
        nonlocal done, shown
        done += 1
        if done == total or time.monotonic() - shown >= _SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            show()

    show()
    yield advance
