"""Replicas that run already, as a cluster sees them: spoken to from this process, lost, and found again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from preble.backends import Delta, EngineInfo, EngineRequest, Load
from preble.backends.openai.engine import OpenAIEngine
from preble.backends.openai.options import base_url
from preble.backends.openai.retokenize import Text
from preble.errors import (
    ConfigurationError,
    EngineError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerStartError,
)
from preble.transport.schema import Abort, Step, Submit, ToWorker

PATIENCE = 3
"""Checks of health that a replica may fail in a row before it counts as lost."""

_CLOSE_PATIENCE = 2.0
_logger = logging.getLogger("preble.replicas")


class _Replica:
    """One server: its engine here, the requests on it, and the task that looks after it."""

    def __init__(self, name: str, engine: OpenAIEngine) -> None:
        self.name = name
        self.engine = engine
        self.serving = False
        self.requests: dict[int, asyncio.Task[None]] = {}
        self.gone = asyncio.Event()
        self.watch: asyncio.Task[None] | None = None


class ReplicaPool:
    """Has the face of `WorkerPool`, for servers that run already. A replica is named by its base URL.

    `on_step(name, step)` is called for all news, `on_failed(name, id, error)` for a request that failed,
    `on_lost(name, error)` when a replica is gone, and `on_found(name, info)` when it is back.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        make_engine: Callable[..., OpenAIEngine],
        on_step: Callable[[str, Step], None],
        on_failed: Callable[[str, int, PrebleError], None],
        on_lost: Callable[[str, WorkerLostError], None],
        on_found: Callable[[str, EngineInfo], None],
    ) -> None:
        self.text: Text | None = None
        self.names = _names(urls)
        self._make_engine = make_engine
        self._on_step = on_step
        self._on_failed = on_failed
        self._on_lost = on_lost
        self._on_found = on_found
        self._replicas: dict[str, _Replica] = {}

    async def start(self, timeout: float) -> dict[str, EngineInfo]:
        """Wait until all replicas are healthy and return what each can do. If one is not, none is connected.

        Raises ConfigurationError as the replica says, WorkerStartError if it is not healthy within `timeout` seconds.
        """
        try:
            infos = await _all(self.add(name, timeout) for name in self.names)
        except BaseException:
            await self.stop(0.0)
            raise
        return dict(zip(self.names, infos, strict=True))

    async def add(self, name: str, timeout: float) -> EngineInfo:
        """Connect one more replica, by its base URL. If that fails, nothing is left of it.

        Raises ConfigurationError or WorkerStartError.
        """
        engine = self._make_engine(url=name, text=self.text)
        try:
            async with asyncio.timeout(timeout):
                info = await engine.start()
        except BaseException as error:
            await engine.close()
            if isinstance(error, TimeoutError):
                raise WorkerStartError(f"not healthy within {timeout:g} s", worker=name) from None
            raise
        replica = self._replicas[name] = _Replica(name, engine)
        replica.serving = True
        replica.watch = asyncio.create_task(self._watch(replica), name=f"preble-replica-{name}")
        return info
