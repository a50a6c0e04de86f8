"""Clusters that nobody closes: their workers are ended all the same, and a warning says where they were made."""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
import weakref
from collections.abc import Callable
from threading import Event

from preble.cluster.state import running_loop
from preble.workers.pool import Pool

_PATIENCE = 5.0
_logger = logging.getLogger("preble.cluster")
_stopping: set[asyncio.Task[None]] = set()
"""Tasks that end forgotten workers; an event loop alone would not keep them."""


def caller() -> str:
    """Return the file and line from which the package was called."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("preble."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def end_when_forgotten(
    cluster: object, pool: Pool, loop: asyncio.AbstractEventLoop, end: Callable[[], None], made: str
) -> Callable[[], object]:
    """Stop `pool` once nobody has `cluster` any more, or when the interpreter ends; `end` is called before.

    `made` says where the cluster was made. Neither `pool` nor `end` may refer to the cluster. Returns what calls this
    off, for a cluster that was closed.
    """
    return weakref.finalize(cluster, _end, pool, loop, end, made).detach


def _end(pool: Pool, loop: asyncio.AbstractEventLoop, end: Callable[[], None], made: str) -> None:
    if loop.is_running() and running_loop() is not loop:
        _end_on(loop, pool, end)
    else:
        pool.kill()
        if loop.is_running():  # perhaps not for long: what has to wait comes after what ends the workers
            _keep(loop.create_task(_stop(pool, end)))
    message = f"the cluster made at {made} was never closed; its workers are ended now"
    _logger.warning("%s", message)
    warnings.warn(message, ResourceWarning, stacklevel=2)


def _end_on(loop: asyncio.AbstractEventLoop, pool: Pool, end: Callable[[], None]) -> None:
    """End it on another thread's loop, and wait: the interpreter may be about to end."""
    ended = Event()

    def begin() -> None:
        task = loop.create_task(_stop(pool, end))
        task.add_done_callback(lambda _: ended.set())
        _keep(task)

    loop.call_soon_threadsafe(begin)
    if not ended.wait(_PATIENCE):
        pool.kill()


async def _stop(pool: Pool, end: Callable[[], None]) -> None:
    end()
    await pool.stop(0.0)


def _keep(task: asyncio.Task[None]) -> None:
    _stopping.add(task)
    task.add_done_callback(_stopping.discard)
