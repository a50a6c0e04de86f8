"""Replicas that run already, as a cluster sees them: spoken to from this process, lost, and found again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial

from preble.backends import Delta, EngineInfo, EngineRequest
from preble.backends.openai.engine import OpenAIEngine
from preble.backends.openai.options import base_url
from preble.backends.openai.retokenize import TextTokenizer
from preble.errors import (
    ConfigurationError,
    EngineError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerStartError,
)
from preble.transport.schema import Abort, Step, Submit, ToWorker
from preble.workers.binding import Device
from preble.workers.gather_or_cancel import gather_or_cancel
from preble.workers.pool import Listener

PATIENCE = 3
"""Checks of health that a replica may fail in a row before it counts as lost."""

_CLOSE_PATIENCE = 2.0
_logger = logging.getLogger("preble.workers.replicas")


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
    """A `Pool` of servers that run already. A replica is named by its base URL, and comes back if it is lost.

    `make_engine(url=, text=, kv_events=)` returns what speaks to one. Raises ConfigurationError naming the argument.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        make_engine: Callable[..., OpenAIEngine],
        kv_events: Sequence[str | None] | None = None,
    ) -> None:
        self._names = _names(urls)
        self._kv_events = _paired(self._names, kv_events)
        self._make_engine = make_engine
        self._listener: Listener
        self._text: TextTokenizer | None = None
        self._replicas: dict[str, _Replica] = {}
        self._starting: dict[str, asyncio.Future[EngineInfo]] = {}

    async def start(
        self, listener: Listener, timeout: float, text: TextTokenizer | None = None
    ) -> dict[str, EngineInfo]:
        """As `Pool.start`: wait until all replicas are healthy. If one is not, none is connected."""
        self._listener, self._text = listener, text
        try:
            infos = await gather_or_cancel(self._connect(name, timeout) for name in self._names)
        except BaseException:
            await self.stop(0.0)
            raise
        for name in self._names:
            self._begin_watch(name)
        return dict(zip(self._names, infos, strict=True))

    async def add(
        self,
        timeout: float,
        *,
        url: str | None = None,
        cpus: Sequence[int] | None = None,
        devices: Sequence[Device] | None = None,
    ) -> tuple[str, EngineInfo]:
        """As `Pool.add`: it needs a `url`, and its GPUs and cores are none of ours."""
        if url is None:
            raise ConfigurationError("url: is what a cluster of replicas needs")
        if cpus is not None or devices is not None:
            raise ConfigurationError("devices, cpus: are for clusters that start workers")
        name = base_url(url)
        info = await self._connect(name, timeout)
        self._begin_watch(name)
        return name, info

    async def remove(self, worker: str) -> None:
        """As `Pool.remove`: the server goes on running."""
        replica = self._replicas.pop(worker, None)
        if replica is not None:
            await self._leave(replica, 0.0)

    def awaits(self, worker: str) -> bool:
        """As `Pool.awaits`."""
        return worker in self._replicas and not self._replicas[worker].serving

    def send(self, worker: str, message: ToWorker) -> None:
        """As `Pool.send`."""
        replica = self._replicas.get(worker)
        if replica is None or not replica.serving:
            raise WorkerLostError("the replica is gone", worker=worker)
        if isinstance(message, Submit):
            request = message.request
            task = asyncio.create_task(self._answer(replica, request))
            replica.requests[request.id] = task
            task.add_done_callback(partial(_forget, replica, request.id))
        elif isinstance(message, Abort):
            _cancel(replica, message.ids)

    async def reset_cache(self, worker: str) -> None:
        """As `Pool.reset_cache`. Raises ConfigurationError if the server cannot do that."""
        replica = self._replicas[worker]
        await replica.engine.reset_cache()
        self._tell(replica)

    async def stop(self, grace: float) -> None:
        """As `Pool.stop`: close all connections."""
        for starting in self._starting.values():
            starting.cancel()
        replicas = list(self._replicas.values())
        self._replicas.clear()
        await asyncio.gather(*(self._leave(replica, grace) for replica in replicas))

    def pids(self) -> dict[str, int]:
        """Return nothing: a replica is no process of ours."""
        return {}

    async def _connect(self, name: str, timeout: float) -> EngineInfo:
        """Connect a replica. If that fails, also because the pool is stopped meanwhile, nothing is left of it."""
        if name in self._replicas or name in self._starting:
            raise ConfigurationError(f"url: {name} is here already")
        engine = self._make_engine(url=name, text=self._text, kv_events=self._kv_events.get(name))
        starting = self._starting[name] = asyncio.ensure_future(engine.start())
        try:
            info = await _started(starting, name, timeout)
        except BaseException:
            await engine.close()
            raise
        finally:
            del self._starting[name]
        replica = self._replicas[name] = _Replica(name, engine)
        replica.serving = True
        return info

    def _begin_watch(self, name: str) -> None:
        """Look after a replica from now on: the listener is about to learn of it, and a loss is not told before."""
        replica = self._replicas[name]
        replica.watch = asyncio.create_task(self._watch(replica), name=f"preble-replica-{name}")

    async def _leave(self, replica: _Replica, grace: float) -> None:
        try:
            if grace and replica.requests:
                await asyncio.wait(replica.requests.values(), timeout=grace)
        finally:
            replica.serving = False
            tasks = [*replica.requests.values(), *([replica.watch] if replica.watch else [])]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CLOSE_PATIENCE) if tasks else None
            await replica.engine.close()

    async def _answer(self, replica: _Replica, request: EngineRequest) -> None:
        try:
            async for delta in replica.engine.generate(request):
                self._tell(replica, (request.id, delta))
        except UnreachableError as error:
            _logger.info("a request found %s unreachable: %s", replica.name, error)
            replica.gone.set()
            await asyncio.Event().wait()  # until the watch has this request sent elsewhere, which cancels it here
        except PrebleError as error:
            self._listener.on_failed(replica.name, request.id, error)
        except Exception as error:
            _logger.exception("request %d failed", request.id)
            self._listener.on_failed(replica.name, request.id, EngineError(f"{type(error).__name__}: {error}"))

    def _tell(self, replica: _Replica, *deltas: tuple[int, Delta]) -> None:
        if replica.serving:
            step = Step(tuple(replica.engine.cache_events()), deltas, (), replica.engine.load())
            self._listener.on_step(replica.name, step)

    async def _watch(self, replica: _Replica) -> None:
        """Look after a replica for as long as it is ours."""
        while True:
            reason = await self._until_gone(replica)
            self._lose(replica, reason)
            info = await self._until_back(replica)
            replica.gone.clear()
            replica.serving = True
            _logger.warning("%s is back", replica.name)
            self._listener.on_found(replica.name, info)

    async def _until_gone(self, replica: _Replica) -> str:
        """Check health and load at intervals; return why the replica counts as lost."""
        failures, interval = 0, replica.engine.options.health_interval
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await replica.gone.wait()
                    return "it cannot be reached"
            try:
                await replica.engine.poll()
                failures = 0
                self._tell(replica)
            except Exception as error:  # whatever goes wrong in a check, the next ones must take place
                failures += 1
                if failures >= PATIENCE:
                    return str(error)

    async def _until_back(self, replica: _Replica) -> EngineInfo:
        """Wait until a lost replica can serve again, asking ever less often."""
        while True:
            try:
                return await replica.engine.start()
            except PrebleError as error:  # it is up, but not what it was: another model, another key
                _logger.error("%s is no longer what it was: %s", replica.name, error)
                await asyncio.sleep(replica.engine.options.backoff_limit)

    def _lose(self, replica: _Replica, reason: str) -> None:
        replica.serving = False
        _logger.warning("%s is lost: %s", replica.name, reason)
        _cancel(replica, tuple(replica.requests))
        self._listener.on_lost(replica.name, WorkerLostError(f"the replica is gone: {reason}", worker=replica.name))


def _names(urls: Sequence[str]) -> tuple[str, ...]:
    if isinstance(urls, str) or not urls:
        raise ConfigurationError("urls: must be a sequence of at least one base URL")
    names = tuple(map(base_url, urls))
    if len(set(names)) < len(names):
        raise ConfigurationError("urls: one of them is there twice")
    return names


def _paired(names: Sequence[str], kv_events: Sequence[str | None] | None) -> dict[str, str | None]:
    if isinstance(kv_events, str) or (kv_events is not None and len(kv_events) != len(names)):
        raise ConfigurationError(f"kv_events: must be a sequence of {len(names)} addresses, one for each URL")
    return dict(zip(names, kv_events or [None] * len(names), strict=True))


async def _started(starting: asyncio.Future[EngineInfo], name: str, timeout: float) -> EngineInfo:
    """Await a start that somebody else may cancel. It has ended when this has, however that does."""
    try:
        await asyncio.wait((starting,), timeout=timeout)
    finally:
        late = starting.cancel()
        await asyncio.wait((starting,))
    if late:
        raise WorkerStartError(f"not healthy within {timeout:g} s", worker=name)
    if starting.cancelled():
        raise WorkerStartError("stopped before it was healthy", worker=name)
    return starting.result()


def _cancel(replica: _Replica, ids: Sequence[int]) -> None:
    for id in ids:
        if task := replica.requests.get(id):
            task.cancel()


def _forget(replica: _Replica, id: int, _: object) -> None:
    replica.requests.pop(id, None)
