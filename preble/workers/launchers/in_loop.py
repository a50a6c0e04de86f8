"""Workers without a process: an engine, with a `Worker` in front of it, as a task of the caller's event loop.

For tests, notebooks and virtual time: nothing is forked, and time is that of the loop. An engine that computes on the
loop itself keeps everything else on it waiting. One that is told to end its process ends only its worker.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import traceback
from collections.abc import Callable

from preble.backends import Engine
from preble.backends.exit_process import end_engine, exit_process
from preble.errors import ConfigurationError
from preble.transport.memory import MemoryDealer, MemoryRouter
from preble.transport.schema import Ticket
from preble.workers.binding import Binding
from preble.workers.launchers.exit_status import in_words
from preble.workers.launchers.launcher import Receive
from preble.workers.worker import BROKEN, Worker, make_engine

_CLOSE_PATIENCE = 3.0
_logger = logging.getLogger("preble.workers.worker")


class InLoopLauncher:
    """A `Launcher` of workers in this event loop. `make_engine(ticket)` returns the engine of one, not yet started."""

    def __init__(self, make_engine: Callable[[Ticket], Engine] = make_engine) -> None:
        self._make_engine = make_engine
        self._router: MemoryRouter

    def listen(self, receive: Receive) -> MemoryRouter:
        """As `Launcher.listen`."""
        self._router = MemoryRouter(receive)
        return self._router

    async def start(self, ticket: Ticket, binding: Binding) -> InLoopWorker:
        """As `Launcher.start`: the whole process has the same GPUs and cores, so that a worker cannot have its own."""
        if binding.devices is not None or binding.cpus is not None:
            raise ConfigurationError("devices, cpus: are for workers that are processes")
        return InLoopWorker(ticket, self._make_engine, self._router)


class InLoopWorker:
    """The `Handle` of one worker, with the exit statuses of a process: 0, 1, `BROKEN`, and -9 when it was killed."""

    pid = None

    def __init__(self, ticket: Ticket, make_engine: Callable[[Ticket], Engine], router: MemoryRouter) -> None:
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._log = ""
        self._name = ticket.worker
        self._worker = Worker(ticket, make_engine)
        self._link = MemoryDealer(router, ticket.identity, self._worker.receive)
        self._task = asyncio.create_task(self._run(), name=f"preble-worker-{ticket.worker}")
        self._task.add_done_callback(self._ended)
        self._killed = False

    def kill(self) -> None:
        """As `Handle.kill`."""
        if self._killed:  # a second cancellation would disturb what the first one has begun
            return
        self._killed = True
        if self._worker.closing:  # only the engine can free what it has in this process
            self._task.get_loop().call_later(_CLOSE_PATIENCE, self._task.cancel)
        else:
            self._task.cancel()

    def how_it_ended(self) -> str:
        """As `Handle.how_it_ended`, in the words of a process."""
        return in_words(self.exited.result())

    def log_tail(self) -> str:
        """Return what broke the worker."""
        return self._log

    async def _run(self) -> int:
        exit_process.set(end_engine)  # for this task, and those that the engine makes
        try:
            return 0 if await self._worker.run(self._link) else 1
        except Exception as error:
            _logger.error("worker %s broke", self._name, exc_info=error)
            self._log = "".join(traceback.format_exception(error))
            return BROKEN
        finally:
            self._link.close()
            await self._worker.abandon()

    def _ended(self, task: asyncio.Task[int]) -> None:
        self._link.close()
        self.exited.set_result(-signal.SIGKILL if task.cancelled() else task.result())
