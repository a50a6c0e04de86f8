"""Workers that a launcher starts: together, spoken to by name over one link each, and stopped without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from preble.backends import EngineInfo, find_backend
from preble.backends.openai.retokenize import TextTokenizer
from preble.errors import (
    ConfigurationError,
    EngineError,
    FrameError,
    ModelError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerStartError,
)
from preble.transport.memory import MemoryRouter
from preble.transport.schema import (
    VERSION,
    Broken,
    FromWorker,
    Hello,
    Ready,
    ResetCache,
    ResetDone,
    ResetFailed,
    StartFailed,
    Step,
    Stop,
    Stopped,
    Stopping,
    Ticket,
    ToWorker,
    decode_from_worker,
    encode,
)
from preble.transport.zeromq import Router
from preble.workers.binding import Binding, Bindings, Device
from preble.workers.engine_options import EngineOptions, options_of_another, options_of_each
from preble.workers.gather_or_cancel import gather_or_cancel
from preble.workers.launchers.launcher import Handle, Launcher
from preble.workers.pool import Listener

_STOPPED_WITHIN = 1.0
_KILLED_WITHIN = 5.0
_LINES_LOGGED = 20
_logger = logging.getLogger("preble.workers")


class _Worker:
    """One worker and what it has said so far."""

    def __init__(self, ticket: Ticket, binding: Binding, handle: Handle) -> None:
        self.ticket = ticket
        self.binding = binding
        self.handle = handle
        self.greeted = self.serving = False
        self.fault = ""
        self.ready: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()


class LaunchedPool:
    """A `Pool` of workers that `launcher` starts. They are called w0, w1 and so on, and a lost one does not come back.

    That one is lost is logged as a warning, with how it ended and the last lines that it wrote. One that says what
    cannot be understood is ended, because what it said of its requests is lost.

    `bindings` says what each is bound to, and so how many there are at first. `random_hex(bytes)` makes the secrets
    by which a worker proves that it holds its ticket. With a `seed` engines draw the same again for requests that have
    none, unless `options` say otherwise. Raises ConfigurationError if the options do not fit the bindings.
    """

    def __init__(
        self,
        launcher: Launcher,
        *,
        backend: str,
        model: str | None,
        options: EngineOptions | None,
        bindings: Bindings,
        seed: int | None = None,
        random_hex: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self._launcher = launcher
        self._describe = partial(Ticket, backend=backend, model=model)
        self._backend = find_backend(backend)
        self._seed = seed
        self._options = options
        self._bindings = bindings
        self._random_hex = random_hex
        each = zip(bindings.first, options_of_each(options, len(bindings.first)), strict=True)
        self._first = [(binding, self._bound(binding, given)) for binding, given in each]
        self._names = (f"w{number}" for number in itertools.count())
        self._workers: dict[str, _Worker] = {}
        self._by_identity: dict[bytes, _Worker] = {}
        self._starting: list[Binding] = []
        self._resets: dict[int, asyncio.Future[None]] = {}
        self._reset_ids = itertools.count(1)
        self._router: Router | MemoryRouter | None = None
        self._stopping = False
        self._listener: Listener

    async def start(
        self, listener: Listener, timeout: float, text: TextTokenizer | None = None
    ) -> dict[str, EngineInfo]:
        """As `Pool.start`. A WorkerStartError has the worker's last lines."""
        self._listener = listener
        self._router = self._launcher.listen(self._receive)
        names = [name for _, name in zip(self._first, self._names, strict=False)]
        try:
            await gather_or_cancel(self._launch(name, *given) for name, given in zip(names, self._first, strict=True))
            async with asyncio.timeout(timeout):
                infos = await asyncio.gather(*(worker.ready for worker in self._workers.values()))
            for worker in self._workers.values():
                _serve(worker)
        except TimeoutError:
            late = next(worker for worker in self._workers.values() if not _succeeded(worker.ready))
            error = _late(late, timeout)
            await self._abandon()
            raise error from None
        except BaseException:
            await self._abandon()
            raise
        ready = dict(zip(self._workers, infos, strict=True))
        return {name: ready[name] for name in names}  # not in the order in which they came up

    async def add(
        self,
        timeout: float,
        *,
        url: str | None = None,
        cpus: Sequence[int] | None = None,
        devices: Sequence[Device] | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> tuple[str, EngineInfo]:
        """As `Pool.add`: it has no `url`, and needs `devices` and `engine_options` where the others have their own."""
        if url is not None:
            raise ConfigurationError("url: is for clusters of replicas")
        binding = self._bindings.another(devices, cpus, self._all_bindings())
        options = self._bound(binding, options_of_another(self._options, engine_options))
        name = next(self._names)
        self._starting.append(binding)
        try:
            await self._launch(name, binding, options)
        finally:
            self._starting.remove(binding)
        return name, await self._ready(self._workers[name], timeout)

    async def remove(self, worker: str) -> None:
        """As `Pool.remove`. It returns when nothing of the worker is left."""
        with contextlib.suppress(PrebleError):
            self.send(worker, Stop(0.0))
        removed = self._workers.pop(worker, None)
        if removed is None:
            return
        try:
            await asyncio.wait((removed.handle.exited,), timeout=_STOPPED_WITHIN)
        finally:
            removed.handle.kill()
        await _gone((removed,))

    def awaits(self, worker: str) -> bool:
        """No worker of this pool comes back."""
        return False

    def missing(self) -> dict[str, str]:
        """Return nothing: no worker of this pool comes back."""
        return {}

    def send(self, worker: str, message: ToWorker) -> None:
        """As `Pool.send`."""
        target = self._workers.get(worker)
        if target is None or self._router is None:
            raise WorkerLostError("the worker is gone", worker=worker)
        try:
            self._router.send(target.ticket.identity, encode(message))
        except UnreachableError:
            target.fault = target.fault or "it could not be reached"
            target.handle.kill()
            raise WorkerLostError("the worker cannot be reached", worker=worker) from None

    async def reset_cache(self, worker: str) -> None:
        """As `Pool.reset_cache`."""
        id, answered = next(self._reset_ids), asyncio.get_running_loop().create_future()
        self._resets[id] = answered
        try:
            self.send(worker, ResetCache(id))
            exited = self._workers[worker].handle.exited
            await asyncio.wait((answered, exited), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._resets[id]
        if not answered.done():
            raise WorkerLostError("the worker died", worker=worker)
        answered.result()

    async def stop(self, grace: float) -> None:
        """As `Pool.stop`."""
        self._stopping = True
        try:
            for name, worker in self._workers.items():
                try:
                    self.send(name, Stop(grace))
                except PrebleError:
                    worker.handle.kill()
            exits = [worker.handle.exited for worker in self._workers.values()]
            if exits:
                await asyncio.wait(exits, timeout=grace + _STOPPED_WITHIN)
        finally:
            self.kill()
        await _gone(self._workers.values())

    def pids(self) -> dict[str, int]:
        """As `Pool.pids`."""
        pids = {name: worker.handle.pid for name, worker in self._workers.items()}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def kill(self) -> None:
        """As `Pool.kill`."""
        self._stopping = True
        for worker in self._workers.values():
            worker.handle.kill()
        if self._router is not None:
            self._router.close()
            self._router = None

    def _all_bindings(self) -> list[Binding]:
        """What workers are bound to: those that are there, that are about to start, and that have yet to end."""
        return self._starting + [worker.binding for worker in self._by_identity.values()]

    async def _ready(self, worker: _Worker, timeout: float) -> EngineInfo:
        """Wait until one more worker is ready; if it does not get so, nothing is left of it."""
        try:
            async with asyncio.timeout(timeout):
                info = await worker.ready
            _serve(worker)
            return info
        except BaseException as error:
            self._workers.pop(worker.ticket.worker, None)  # it may be removed already
            worker.handle.kill()
            await _gone((worker,))
            if isinstance(error, TimeoutError):
                raise _late(worker, timeout) from None
            raise

    async def _abandon(self) -> None:
        for worker in self._workers.values():
            worker.ready.cancel()
        self.kill()
        await _gone(self._workers.values())

    async def _launch(self, name: str, binding: Binding, options: dict[str, Any]) -> None:
        if self._router is None:
            raise _stopped(name)
        ticket = self._describe(
            worker=name,
            options=self._seeded(name) | options,
            incarnation=self._random_hex(8),
            nonce=self._random_hex(16),
            address=self._router.address,
        )
        worker = _Worker(ticket, binding, await self._launcher.start(ticket, binding))
        if self._stopping:  # meanwhile, without this one
            worker.handle.kill()
            await _gone((worker,))
            raise _stopped(name)
        self._workers[name] = self._by_identity[ticket.identity] = worker
        worker.handle.exited.add_done_callback(lambda _: self._exited(worker))

    def _seeded(self, name: str) -> dict[str, Any]:
        return {} if self._seed is None else self._backend.seed(self._seed, int(name.removeprefix("w")))

    def _bound(self, binding: Binding, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return an engine's options with what follows from its binding. Raises ConfigurationError."""
        return self._backend.bind(options, len(binding.devices or ()), binding.threads)

    def _receive(self, peer: bytes, frame: bytes) -> None:
        worker = self._by_identity.get(peer)
        if worker is None:
            raise FrameError("unknown peer")
        try:
            message = decode_from_worker(frame)
        except FrameError as error:
            self._refuse(worker, error)
            raise
        self._understand(worker, message)

    def _refuse(self, worker: _Worker, error: FrameError) -> None:
        """End a worker that says what cannot be understood: what it said of its requests is lost."""
        if worker.greeted and not worker.fault:
            worker.fault = f"it said what cannot be understood: {error}"
            if not worker.ready.done():
                worker.ready.set_exception(WorkerStartError(worker.fault, worker=worker.ticket.worker))
            worker.handle.kill()

    def _understand(self, worker: _Worker, message: FromWorker) -> None:
        if isinstance(message, Hello):
            worker.greeted = message.version == VERSION and message.nonce == worker.ticket.nonce
        elif not worker.greeted:
            raise FrameError("no valid greeting")
        elif isinstance(message, Step | Stopping | Broken):
            self._take_news(worker, message)
        elif isinstance(message, Ready) and not worker.ready.done():
            worker.ready.set_result(message.info)
        elif isinstance(message, StartFailed) and not worker.ready.done():
            worker.ready.set_exception(_start_error(message, worker))
        elif isinstance(message, ResetDone | ResetFailed):
            self._answer_reset(worker, message)
        elif not isinstance(message, Stopped):
            raise FrameError(f"unexpected {type(message).__name__}")

    def _answer_reset(self, worker: _Worker, answer: ResetDone | ResetFailed) -> None:
        future = self._resets.get(answer.id)
        if future is None or future.done():
            return
        if isinstance(answer, ResetFailed):
            future.set_exception(EngineError(answer.reason, worker=worker.ticket.worker))
        else:
            future.set_result(None)

    def _take_news(self, worker: _Worker, news: Step | Stopping | Broken) -> None:
        """Pass on what a worker in use says: not one that is starting still, or finishes what it had when removed."""
        name = worker.ticket.worker
        if isinstance(news, Broken):
            worker.fault = news.reason
            asyncio.get_running_loop().call_later(_STOPPED_WITHIN, worker.handle.kill)
        if worker.serving and self._workers.get(name) is worker:
            if isinstance(news, Step):
                self._listener.on_step(name, news)
            elif not self._stopping:
                self._listener.on_stopping(name)

    def _exited(self, worker: _Worker) -> None:
        name = worker.ticket.worker
        self._by_identity.pop(worker.ticket.identity, None)
        if not worker.ready.done():
            worker.ready.set_exception(_exit_error(worker))
        elif worker.serving and not self._stopping and name in self._workers:
            del self._workers[name]
            error = _lost(worker)
            _logger.warning("worker %s is lost: %s%s", name, error, _last_lines(error.log))
            self._listener.on_lost(name, error)


def _serve(worker: _Worker) -> None:
    """From now on its death is news. Raises WorkerStartError if it is dead already."""
    if worker.handle.exited.done():
        raise _exit_error(worker)
    worker.serving = True


def _stopped(name: str) -> WorkerStartError:
    return WorkerStartError("stopped before it was ready", worker=name)


def _exit_error(worker: _Worker) -> WorkerStartError:
    reason = f"ended before it was ready ({worker.handle.how_it_ended()})"
    return WorkerStartError(reason, worker=worker.ticket.worker, log=worker.handle.log_tail())


def _lost(worker: _Worker) -> WorkerLostError:
    reason = f"the worker died ({worker.handle.how_it_ended()})" + (f": {worker.fault}" if worker.fault else "")
    return WorkerLostError(reason, worker=worker.ticket.worker, log=worker.handle.log_tail())


def _last_lines(log: str) -> str:
    lines = log.splitlines()[-_LINES_LOGGED:]
    return "\n".join(["; its last lines:", *lines]) if lines else ""


def _late(worker: _Worker, timeout: float) -> WorkerStartError:
    log = worker.handle.log_tail()
    return WorkerStartError(f"not ready within {timeout:g} s", worker=worker.ticket.worker, log=log)


async def _gone(workers: Iterable[_Worker]) -> None:
    """Wait until nothing is left of these, which were killed, but not for ever."""
    exits = [worker.handle.exited for worker in workers]
    if exits:
        await asyncio.wait(exits, timeout=_KILLED_WITHIN)


def _succeeded(future: asyncio.Future[EngineInfo]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _start_error(message: StartFailed, worker: _Worker) -> PrebleError:
    if message.kind == "model":
        return ModelError(message.message, worker=worker.ticket.worker)
    if message.kind == "configuration":
        return ConfigurationError(message.message, worker=worker.ticket.worker)
    return WorkerStartError(message.message, worker=worker.ticket.worker, log=worker.handle.log_tail())
