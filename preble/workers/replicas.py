"""Replicas that run already, as a cluster sees them: spoken to from this process, lost, and found again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from preble.backends import Delta, EngineInfo
from preble.backends.openai.engine import OpenAIEngine
from preble.backends.openai.forward import Forward
from preble.backends.openai.options import base_url
from preble.backends.openai.retokenize import TextTokenizer
from preble.errors import (
    ConfigurationError,
    EngineError,
    InvalidRequestError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerStartError,
)
from preble.tokens import FIRST_TEXT_ID, highest
from preble.transport.schema import Abort, Step, Submit, ToWorker
from preble.workers.binding import Device
from preble.workers.gather_or_cancel import gather_or_cancel
from preble.workers.pool import Listener

PATIENCE = 3
"""Checks of health that a replica may fail in a row before it counts as lost."""

STRAGGLERS = 1.0
"""Seconds that a start waits for further replicas, once there are as many as it needs."""

_CLOSE_PATIENCE = 2.0
_logger = logging.getLogger("preble.workers.replicas")


class _Replica:
    """One server: its engine here, the requests on it, and the task that looks after it.

    `info` is what it was when it last came. `delivering` are the requests that got tokens since the last check. It is
    `in_doubt` when a request found it unreachable.
    """

    def __init__(self, name: str, engine: OpenAIEngine) -> None:
        self.name = name
        self.engine = engine
        self.starting: asyncio.Future[EngineInfo] = asyncio.ensure_future(engine.start())
        self.starting.add_done_callback(_retrieved)
        self.info: EngineInfo | None = None
        self.serving = False
        self.requests: dict[int, asyncio.Task[None]] = {}
        self.delivering: set[int] = set()
        self.in_doubt = asyncio.Event()
        self.watch: asyncio.Task[None] | None = None


class ReplicaPool:
    """A `Pool` of servers that run already. A replica is named by its base URL, and comes back if it is lost.

    `make_engine(url=, text=, kv_events=)` returns what speaks to one. `min_replicas` must be there at the start; the
    others join when they answer. Raises ConfigurationError naming the argument.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        make_engine: Callable[..., OpenAIEngine],
        kv_events: Sequence[str | None] | None = None,
        min_replicas: int = 1,
    ) -> None:
        self._names = _names(urls)
        self._kv_events = _paired(self._names, kv_events)
        self._least = _least(min_replicas, len(self._names))
        self._make_engine = make_engine
        self._listener: Listener
        self._text: TextTokenizer | None = None
        self._replicas: dict[str, _Replica] = {}

    async def start(
        self, listener: Listener, timeout: float, text: TextTokenizer | None = None
    ) -> dict[str, EngineInfo]:
        """As `Pool.start`: wait until enough replicas are healthy. If too few are, none is connected."""
        self._listener, self._text = listener, text
        try:
            await self._first([self._open(name) for name in self._names], self._least, timeout)
        except BaseException:
            await self.stop(0.0)
            raise
        for replica in self._replicas.values():
            self._begin_watch(replica)
        return {name: replica.info for name, replica in self._replicas.items() if replica.info is not None}

    async def add(
        self,
        timeout: float,
        *,
        url: str | None = None,
        cpus: Sequence[int] | None = None,
        devices: Sequence[Device] | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> tuple[str, EngineInfo]:
        """As `Pool.add`: it needs a `url`, and its GPUs and cores are none of ours."""
        if url is None:
            raise ConfigurationError("url: is what a cluster of replicas needs")
        if cpus is not None or devices is not None:
            raise ConfigurationError("devices, cpus: are for clusters that start workers")
        if engine_options is not None:
            raise ConfigurationError("engine_options: are for clusters that start workers")
        replica = self._open(base_url(url))
        try:
            await self._first([replica], 1, timeout)
        except BaseException:
            self._replicas.pop(replica.name, None)
            await self._leave(replica, 0.0)
            raise
        self._begin_watch(replica)
        return replica.name, replica.starting.result()

    async def remove(self, worker: str) -> None:
        """As `Pool.remove`: the server goes on running."""
        replica = self._replicas.pop(worker, None)
        if replica is not None:
            await self._leave(replica, 0.0)

    def awaits(self, worker: str) -> bool:
        """As `Pool.awaits`."""
        replica = self._replicas.get(worker)
        return replica is not None and replica.watch is not None and not replica.serving

    def missing(self) -> dict[str, str]:
        """As `Pool.missing`."""
        return {name: str(replica.engine.problem) for name, replica in self._replicas.items() if not replica.serving}

    def send(self, worker: str, message: ToWorker) -> None:
        """As `Pool.send`."""
        replica = self._replicas.get(worker)
        if replica is None or not replica.serving:
            raise WorkerLostError("the replica is gone", worker=worker)
        if isinstance(message, Submit):
            request = message.request
            if highest(request.tokens) >= FIRST_TEXT_ID:
                raise InvalidRequestError("is known by its text alone", field="prompt")  # a copy of a forwarded prefix
            self._begin(replica, request.id, replica.engine.generate(request))
        elif isinstance(message, Abort):
            _cancel(replica, message.ids)

    def forward(self, worker: str, id: int, exchange: Forward) -> None:
        """Let a replica serve a request as it came. Raises WorkerLostError if it is gone."""
        replica = self._replicas.get(worker)
        if replica is None or not replica.serving:
            raise WorkerLostError("the replica is gone", worker=worker)
        self._begin(replica, id, replica.engine.forward(exchange))

    async def tokenized(self, body: bytes) -> bytes:
        """Return the packed token ids that the `/tokenize` of a server has for a body, nothing if none has."""
        for replica in list(self._replicas.values()):
            if replica.serving and (tokens := await replica.engine.tokenized(body)):
                return tokens
        return b""

    def _begin(self, replica: _Replica, id: int, deltas: AsyncIterator[Delta]) -> None:
        task = asyncio.create_task(self._answer(replica, id, deltas))
        replica.requests[id] = task
        task.add_done_callback(partial(_forget, replica, id))

    async def reset_cache(self, worker: str) -> None:
        """As `Pool.reset_cache`. Raises ConfigurationError if the server cannot do that."""
        replica = self._replicas[worker]
        await replica.engine.reset_cache()
        self._tell(replica)

    async def stop(self, grace: float) -> None:
        """As `Pool.stop`: close all connections."""
        replicas = list(self._replicas.values())
        self._replicas.clear()
        await asyncio.gather(*(self._leave(replica, grace) for replica in replicas))

    def kill(self) -> None:
        """As `Pool.kill`: nothing here needs it, for connections end with their event loop."""

    def pids(self) -> dict[str, int]:
        """Return nothing: a replica is no process of ours."""
        return {}

    def _open(self, name: str) -> _Replica:
        """Begin to connect a replica. Raises ConfigurationError."""
        if name in self._replicas:
            raise ConfigurationError(f"url: {name} is here already")
        engine = self._make_engine(url=name, text=self._text, kv_events=self._kv_events.get(name))
        replica = self._replicas[name] = _Replica(name, engine)
        return replica

    async def _first(self, replicas: Sequence[_Replica], least: int, timeout: float) -> None:
        """Wait for `least` of these, and a little for the others. Raises as `Pool.start`."""
        clock = asyncio.get_running_loop().time
        pending, until = {replica.starting for replica in replicas}, clock() + timeout
        while pending and clock() < until:
            _, pending = await asyncio.wait(pending, timeout=until - clock(), return_when=asyncio.FIRST_COMPLETED)
            if sum(map(_came, replicas)) >= least:
                until = min(until, clock() + STRAGGLERS)
            _check_hope(replicas, least)
        missing = [replica for replica in replicas if replica.starting.cancel() or not replica.serving]
        await asyncio.gather(*(replica.starting for replica in missing), return_exceptions=True)
        if len(replicas) - len(missing) < least:
            raise _too_few(missing, len(replicas), least, timeout)
        for replica in missing:
            _logger.warning("beginning without %s, which is tried again: %s", replica.name, _problem(replica))

    def _begin_watch(self, replica: _Replica) -> None:
        """Look after a replica from now on: the listener is about to learn of it, and a loss is not told before."""
        replica.watch = asyncio.create_task(self._watch(replica), name=f"preble-replica-{replica.name}")

    async def _leave(self, replica: _Replica, grace: float) -> None:
        try:
            if grace and replica.requests:
                await asyncio.wait(replica.requests.values(), timeout=grace)
        finally:
            replica.serving = False
            tasks: list[asyncio.Future[Any]] = [replica.starting, *replica.requests.values()]
            tasks += [replica.watch] if replica.watch else []
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CLOSE_PATIENCE)
            await replica.engine.close()

    async def _answer(self, replica: _Replica, id: int, deltas: AsyncIterator[Delta]) -> None:
        try:
            async for delta in deltas:
                if delta.tokens:
                    replica.delivering.add(id)
                self._tell(replica, (id, delta))
        except PrebleError as error:
            if isinstance(error, UnreachableError):
                replica.in_doubt.set()
            self._listener.on_failed(replica.name, id, error)
        except Exception as error:
            _logger.exception("request %d failed", id)
            self._listener.on_failed(replica.name, id, EngineError(f"{type(error).__name__}: {error}"))

    def _tell(self, replica: _Replica, *deltas: tuple[int, Delta]) -> None:
        if replica.serving:
            step = Step(tuple(replica.engine.cache_events()), deltas, (), replica.engine.load())
            self._listener.on_step(replica.name, step)

    async def _watch(self, replica: _Replica) -> None:
        """Look after a replica for as long as it is ours, whatever goes wrong where its losses and returns are told."""
        while True:
            try:
                if not replica.serving:
                    self._find(replica, await self._until_back(replica))
                self._lose(replica, await self._until_gone(replica))
            except Exception:
                _logger.exception("%s is looked after all the same", replica.name)
                await asyncio.sleep(replica.engine.options.health_interval)

    async def _until_gone(self, replica: _Replica) -> str:
        """Check health and load at intervals, and when it is in doubt; return why the replica counts as lost.

        One that delivers tokens is alive, whatever it says of its health: a busy server answers late.
        """
        failures, interval = 0, replica.engine.options.health_interval
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await replica.in_doubt.wait()
            replica.in_doubt.clear()
            try:
                await gather_or_cancel((replica.engine.ping(), self._read_load(replica)))
                failures = 0
            except Exception as error:  # whatever goes wrong in a check, the next ones must take place
                failures = 0 if replica.delivering else failures + 1
                if failures >= PATIENCE or _is_down(replica, error):
                    return str(error).removeprefix(f"{replica.name}: ")
            replica.delivering.clear()

    async def _read_load(self, replica: _Replica) -> None:
        """Ask for the load beside the health, for which SGLang takes a second, and tell it as soon as it is here."""
        with contextlib.suppress(PrebleError):  # a server that tells no load is well all the same
            await replica.engine.read_load()
        self._tell(replica)

    async def _until_back(self, replica: _Replica) -> EngineInfo:
        """Wait until a replica can serve, asking ever less often."""
        said = ""
        while True:
            try:
                info = await replica.engine.start()
                _check_same(replica.info, info)
                return info
            except Exception as error:  # it is up, but not what it was: another model, another key
                if str(error) != said:
                    said = str(error)
                    _logger.error("%s is not used: %s", replica.name, error)
                await asyncio.sleep(replica.engine.options.backoff_limit)

    def _find(self, replica: _Replica, info: EngineInfo) -> None:
        _logger.warning("%s is %s", replica.name, "there" if replica.info is None else "back")
        replica.info = info
        replica.serving = True
        self._listener.on_found(replica.name, info)

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


def _least(min_replicas: object, most: int) -> int:
    if not isinstance(min_replicas, int) or not 1 <= min_replicas <= most:
        raise ConfigurationError(f"min_replicas: must be an integer from 1 to {most}, not {min_replicas!r}")
    return min_replicas


def _came(replica: _Replica) -> bool:
    """Whether a replica is there now. Raises if the pool is stopped."""
    starting = replica.starting
    if starting.done() and starting.cancelled():
        raise WorkerStartError("stopped before it was healthy", worker=replica.name)
    if not starting.done() or starting.exception() is not None:
        return False
    replica.info = starting.result()
    replica.serving = True
    return True


def _refusal(replica: _Replica) -> BaseException | None:
    """What keeps a replica from being used, however long one waits: another model, another key."""
    starting = replica.starting
    return starting.exception() if starting.done() and not starting.cancelled() else None


def _check_hope(replicas: Sequence[_Replica], least: int) -> None:
    """Raise the first refusal if so many replicas refuse that there will be too few."""
    refusals = [refusal for replica in replicas if (refusal := _refusal(replica)) is not None]
    if len(replicas) - len(refusals) < least:
        raise refusals[0]


def _problem(replica: _Replica) -> str:
    return str(_refusal(replica) or replica.engine.problem).removeprefix(f"{replica.name}: ")


def _too_few(missing: Sequence[_Replica], all: int, least: int, timeout: float) -> WorkerStartError:
    reasons = "; ".join(f"{replica.name}: {_problem(replica)}" for replica in missing)
    needed = f" ({all - len(missing)} of {all} are healthy, and min_replicas is {least})" if least > 1 else ""
    return WorkerStartError(f"not healthy within {timeout:g} s: {reasons}{needed}", worker=missing[0].name)


def _is_down(replica: _Replica, error: Exception) -> bool:
    """Whether nothing listens there any more. One that is about to stop may still end what it has."""
    refused = isinstance(error, UnreachableError) and error.refused
    return refused and not replica.delivering & replica.requests.keys()


def _check_same(before: EngineInfo | None, now: EngineInfo) -> None:
    """Raise ConfigurationError if a replica came back as something else, whose tokens would mean something else."""
    if before is not None and (was := _model(before)) != (is_now := _model(now)):
        raise ConfigurationError(f"it serves {is_now} now, not {was}")


def _model(info: EngineInfo) -> str:
    return f"{info.model!r} with {info.vocab_size} token ids"


def _retrieved(starting: asyncio.Future[EngineInfo]) -> None:
    """Nobody need look at the error of this one: the first error of all is raised."""
    if not starting.cancelled():
        starting.exception()


def _cancel(replica: _Replica, ids: Sequence[int]) -> None:
    for id in ids:
        if task := replica.requests.get(id):
            task.cancel()


def _forget(replica: _Replica, id: int, _: object) -> None:
    replica.requests.pop(id, None)
