"""What a cluster has of the operating system, so that nothing of it is left in the end."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_GONE_WITHIN = 10.0


class Opened:
    """Notes what is opened inside `with`, also several times; `check` raises AssertionError for what is still there.

    These are processes, sockets, pipes, and files of ours in the temporary folder. Where there is no /proc, only files.
    """

    def __init__(self) -> None:
        self._opened: set[str] = set()
        self._before: set[str] = set()

    def __enter__(self) -> None:
        self._before = _present()

    def __exit__(self, *error: object) -> None:
        self._opened |= _present() - self._before

    def check(self) -> None:
        """Raise AssertionError if something is not closed, soon."""
        until = time.monotonic() + _GONE_WITHIN
        while (left := self._opened & _present()) and time.monotonic() < until:
            time.sleep(0.005)
        assert not left, f"the cluster has left behind: {', '.join(sorted(left))}"


def _present() -> set[str]:
    return {*_processes(), *_descriptors(), *_files()}


def _processes() -> Iterator[str]:
    for children in Path("/proc/self/task").glob("*/children"):
        try:
            yield from (f"process {pid}" for pid in children.read_text().split())
        except OSError:  # the thread has ended
            continue


def _descriptors() -> Iterator[str]:
    """Sockets and pipes by number and inode: numbers alone are used again."""
    folder = Path("/proc/self/fd")
    for number in os.listdir(folder) if folder.exists() else ():
        try:
            target = os.readlink(folder / number)
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:")):
            yield f"descriptor {number} ({target})"


def _files() -> Iterator[str]:
    folder = tempfile.gettempdir()
    return (f"file {folder}/{name}" for name in os.listdir(folder) if name.startswith("preble-"))
