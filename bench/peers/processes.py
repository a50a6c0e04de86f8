"""Processes of a benchmark: started, waited for, their CPU time read, killed at the end. Linux only."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from bench.peers.environment import UnavailableError

_SECONDS_TO_START = 60.0
_SECONDS_BETWEEN_LOOKS = 0.05
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12
"""Fields of /proc/PID/stat, counted after the name, which may have blanks in it."""
_IDLE, _WAITING, _GUEST = 3, 4, 8
"""Fields of the first line of /proc/stat; what guests had is in the user's time too."""


@asynccontextmanager
async def running(
    command: Sequence[str | Path],
    log: Path,
    ready: Callable[[], Awaitable[bool]],
    *,
    seconds: float = _SECONDS_TO_START,
    **options: Any,
) -> AsyncIterator[int]:
    """Run a command with its output in a file; yield its process id once it is `ready`; kill it at the end.

    `options` are more of the process's; with `start_new_session` all that it started is killed with it. Raises
    UnavailableError with the last line of its output if it ends before it is ready, or is not within `seconds`.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, **options)
    try:
        await _until(ready, process, log, seconds)
        yield process.pid
    finally:
        if options.get("start_new_session"):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode is None:
            process.kill()
        await process.wait()


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time of these processes and all below them, to a clock tick, threads included."""
    stats = _stats()
    return sum(stats[pid][1] for pid in _with_descendants(set(pids), stats)) / _TICKS_PER_SECOND


def busy_seconds() -> float:
    """Return what all processors of the machine have computed so far, for whomever."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(ticks[:_GUEST]) - ticks[_IDLE] - ticks[_WAITING]) / _TICKS_PER_SECOND


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _stats() -> dict[int, tuple[int, int]]:
    """Return parent and ticks of every process."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        stats[int(path.parent.name)] = (int(fields[_PARENT]), int(fields[_USER]) + int(fields[_SYSTEM]))
    return stats


def _with_descendants(pids: set[int], stats: dict[int, tuple[int, int]]) -> set[int]:
    while below := {pid for pid, (parent, _) in stats.items() if parent in pids} - pids:
        pids = pids | below
    return pids


def _last_line(log: Path) -> str:
    return "".join(log.read_text(errors="replace").splitlines()[-1:])


async def _until(
    ready: Callable[[], Awaitable[bool]], process: asyncio.subprocess.Process, log: Path, seconds: float
) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await ready():
                if process.returncode is not None:
                    raise UnavailableError(f"ended with status {process.returncode}: {_last_line(log)}")
                await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
    except TimeoutError:
        raise UnavailableError(f"not ready within {seconds:g} s: {_last_line(log)}") from None
