"""The cluster's workers: started together, spoken to by name, stopped without leaving anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from preble.backends import EngineInfo, find_backend
from preble.errors import (
    ConfigurationError,
    FrameError,
    ModelError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerStartError,
)
from preble.transport.schema import (
    VERSION,
    FromWorker,
    Hello,
    Ready,
    ResetCache,
    ResetDone,
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
from preble.workers.binding import Binding
from preble.workers.gather import all_or_first_error
from preble.workers.launchers.local import Child

_STOPPED_WITHIN = 1.0
_KILLED_WITHIN = 5.0


class _Worker:
    """One worker process and what it has said so far."""

    def __init__(self, ticket: Ticket, binding: Binding, child: Child) -> None:
        self.ticket = ticket
        self.binding = binding
        self.child = child
        self.greeted = self.serving = False
        self.ready: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()


class WorkerPool:
    """Starts one process per name, bound as described, and carries messages to and from them.

    `on_step(worker, step)` is called for all news of a worker, `on_lost(worker, error)` once if it dies while in use,
    `on_stopping(worker)` before that if it takes no more requests though nobody here told it so.
    """

    def __init__(
        self,
        workers: Mapping[str, Binding],
        *,
        backend: str,
        model: str | None,
        options: Mapping[str, Any],
        on_step: Callable[[str, Step], None],
        on_lost: Callable[[str, WorkerLostError], None],
        on_stopping: Callable[[str], None] = lambda worker: None,
    ) -> None:
        self._describe = partial(Ticket, backend=backend, model=model)
        self._bind = find_backend(backend).bind
        self._options = options
        self._first = dict(workers)
        for binding in workers.values():
            self._bound_options(binding)  # raises for what is wrong, before anything is started
        self._on_step = on_step
        self._on_stopping = on_stopping
        self._on_lost = on_lost
        self._workers: dict[str, _Worker] = {}
        self._by_identity: dict[bytes, _Worker] = {}
        self._starting: list[Binding] = []
        self._resets: dict[int, asyncio.Future[None]] = {}
        self._router: Router | None = None
        self._stopping = False

    async def start(self, timeout: float) -> dict[str, EngineInfo]:
        """Start all workers and return what each engine can do. If one fails, none is left.

        Raises ModelError or ConfigurationError as the engine says, WorkerStartError with the worker's last lines if
        it dies or is not ready within `timeout` seconds.
        """
        self._router = Router(self._receive)
        try:
            await all_or_first_error(self._start_child(name, binding) for name, binding in self._first.items())
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
        return dict(zip(self._workers, infos, strict=True))

    async def add(self, name: str, timeout: float, binding: Binding) -> EngineInfo:
        """Start one more worker and wait until it is ready. If that fails, nothing is left of it.

        Raises ModelError, ConfigurationError or WorkerStartError.
        """
        self._starting.append(binding)
        try:
            await self._start_child(name, binding)
        finally:
            self._starting.remove(binding)
        worker = self._workers[name]
        try:
            async with asyncio.timeout(timeout):
                info = await worker.ready
            _serve(worker)
            return info
        except BaseException as error:
            del self._workers[name]
            worker.child.kill()
            await asyncio.wait((worker.child.exited,), timeout=_KILLED_WITHIN)
            if isinstance(error, TimeoutError):
                raise _late(worker, timeout) from None
            raise

    async def remove(self, name: str) -> None:
        """Stop one worker, which hears nothing more and is not heard any more: it aborts what it has."""
        with contextlib.suppress(PrebleError):
            self.send(name, Stop(0.0))
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        try:
            await asyncio.wait((worker.child.exited,), timeout=_STOPPED_WITHIN)
        finally:
            worker.child.kill()
        await asyncio.wait((worker.child.exited,), timeout=_KILLED_WITHIN)

    def send(self, worker: str, message: ToWorker) -> None:
        """Queue a message for a worker.

        Raises WorkerLostError if it is gone, OverloadedError if it does not keep up.
        """
        target = self._workers.get(worker)
        if target is None or self._router is None:
            raise WorkerLostError("the worker is gone", worker=worker)
        try:
            self._router.send(target.ticket.identity, encode(message))
        except UnreachableError:
            target.child.kill()
            raise WorkerLostError("the worker cannot be reached", worker=worker) from None

    async def reset_cache(self, worker: str, id: int) -> None:
        """Let a worker forget its cache and wait until it has. `id` is new. Raises WorkerLostError if it dies."""
        answered = self._resets[id] = asyncio.get_running_loop().create_future()
        try:
            self.send(worker, ResetCache(id))
            exited = self._workers[worker].child.exited
            await asyncio.wait((answered, exited), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._resets[id]
        if not answered.done():
            raise WorkerLostError("the worker died", worker=worker)

    async def stop(self, grace: float) -> None:
        """Let workers finish within `grace` seconds, then end them. If cancelled, they are killed at once."""
        self._stopping = True
        try:
            for name, worker in self._workers.items():
                try:
                    self.send(name, Stop(grace))
                except PrebleError:
                    worker.child.kill()
            exits = [worker.child.exited for worker in self._workers.values()]
            if exits:
                await asyncio.wait(exits, timeout=grace + _STOPPED_WITHIN)
        finally:
            self.kill()
        await self._gone()

    def kill(self) -> None:
        """End all workers now and free the transport."""
        self._stopping = True
        for worker in self._workers.values():
            worker.child.kill()
        if self._router is not None:
            self._router.close()
            self._router = None

    def bound(self) -> list[Binding]:
        """What processes are bound to: of workers that are there, that are about to start, and that have yet to end."""
        return self._starting + [worker.binding for worker in self._by_identity.values()]

    def pids(self) -> dict[str, int]:
        """Process ids by worker name, for tests and for operators."""
        return {name: worker.child.pid for name, worker in self._workers.items()}

    async def _abandon(self) -> None:
        for worker in self._workers.values():
            worker.ready.cancel()
        self.kill()
        await self._gone()

    async def _gone(self) -> None:
        exits = [worker.child.exited for worker in self._workers.values()]
        if exits:
            await asyncio.wait(exits, timeout=_KILLED_WITHIN)

    async def _start_child(self, name: str, binding: Binding) -> None:
        assert self._router is not None
        ticket = self._describe(
            worker=name,
            options=self._bound_options(binding),
            incarnation=secrets.token_hex(8),
            nonce=secrets.token_hex(16),
            address=self._router.address,
        )
        child = await Child.start(ticket, env=binding.environment())
        if self._stopping:  # meanwhile, without this one
            child.kill()
            await asyncio.wait((child.exited,), timeout=_KILLED_WITHIN)
            raise WorkerStartError("stopped before it was ready", worker=name)
        worker = _Worker(ticket, binding, child)
        self._workers[name] = self._by_identity[ticket.identity] = worker
        worker.child.exited.add_done_callback(lambda _: self._exited(worker))

    def _bound_options(self, binding: Binding) -> dict[str, Any]:
        return self._bind(self._options, len(binding.devices or ()), binding.threads)

    def _receive(self, peer: bytes, frame: bytes) -> None:
        worker = self._by_identity.get(peer)
        if worker is None:
            raise FrameError("unknown peer")
        self._understand(worker, decode_from_worker(frame))

    def _understand(self, worker: _Worker, message: FromWorker) -> None:
        if isinstance(message, Hello):
            worker.greeted = message.version == VERSION and message.nonce == worker.ticket.nonce
        elif not worker.greeted:
            raise FrameError("no valid greeting")
        elif isinstance(message, Step | Stopping):
            self._take_news(worker, message)
        elif isinstance(message, Ready) and not worker.ready.done():
            worker.ready.set_result(message.info)
        elif isinstance(message, StartFailed) and not worker.ready.done():
            worker.ready.set_exception(_start_error(message, worker))
        elif isinstance(message, ResetDone):
            future = self._resets.get(message.id)
            if future is not None and not future.done():
                future.set_result(None)
        elif not isinstance(message, Stopped):
            raise FrameError(f"unexpected {type(message).__name__}")

    def _take_news(self, worker: _Worker, news: Step | Stopping) -> None:
        """Pass on what a worker in use says: not one that is starting still, or finishes what it had when removed."""
        name = worker.ticket.worker
        if worker.serving and self._workers.get(name) is worker:
            if isinstance(news, Step):
                self._on_step(name, news)
            elif not self._stopping:
                self._on_stopping(name)

    def _exited(self, worker: _Worker) -> None:
        name, code = worker.ticket.worker, worker.child.returncode
        self._by_identity.pop(worker.ticket.identity, None)
        if not worker.ready.done():
            worker.ready.set_exception(_exit_error(worker))
        elif worker.serving and not self._stopping and name in self._workers:
            del self._workers[name]
            self._on_lost(name, WorkerLostError(f"the worker died (status {code})", worker=name))


def _serve(worker: _Worker) -> None:
    """From now on its death is news. Raises WorkerStartError if it is dead already."""
    if worker.child.exited.done():
        raise _exit_error(worker)
    worker.serving = True


def _exit_error(worker: _Worker) -> WorkerStartError:
    status, log = worker.child.returncode, worker.child.log_tail()
    return WorkerStartError(f"exited with status {status}", worker=worker.ticket.worker, log=log)


def _late(worker: _Worker, timeout: float) -> WorkerStartError:
    log = worker.child.log_tail()
    return WorkerStartError(f"not ready within {timeout:g} s", worker=worker.ticket.worker, log=log)


def _succeeded(future: asyncio.Future[EngineInfo]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _start_error(message: StartFailed, worker: _Worker) -> PrebleError:
    if message.kind == "model":
        return ModelError(message.message, worker=worker.ticket.worker)
    if message.kind == "configuration":
        return ConfigurationError(message.message, worker=worker.ticket.worker)
    return WorkerStartError(message.message, worker=worker.ticket.worker, log=worker.child.log_tail())
