"""Worker processes on this machine: started, watched, and never left behind.

A child is a supervisor (`supervisor.py`) with the worker below it. The cluster alone holds the write end of the
supervisor's death pipe, so that the whole tree ends when the cluster does, however that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from preble.transport.schema import Ticket, encode_ticket
from preble.transport.zeromq import Router
from preble.workers.binding import Binding
from preble.workers.launchers.exit_status import in_words, kills_for_memory
from preble.workers.launchers.launcher import Receive

LOG_LINES = 200
"""Lines of a child's output that are kept."""

COMMAND = (sys.executable, "-P", "-m", "preble.workers.worker")
"""What runs below the supervisor."""

_LONGEST_LINE = 2000
_KILL_PATIENCE = 5.0
_SUPERVISOR = str(Path(__file__).with_name("supervisor.py"))
_logger = logging.getLogger("preble.workers.worker")
_death_pipes: set[int] = set()


class LocalLauncher:
    """A `Launcher` of processes on this machine, which connect over ZeroMQ."""

    def listen(self, receive: Receive) -> Router:
        """As `Launcher.listen`."""
        return Router(receive)

    async def start(self, ticket: Ticket, binding: Binding) -> Child:
        """As `Launcher.start`."""
        return await Child.start(ticket, env=binding.environment())


class Child:
    """One worker process with everything below it. Made by `await Child.start(ticket)`.

    `exited` is a future that ends with the return code; negative is a signal, as in `subprocess`. It is for callbacks
    and `asyncio.wait`: awaited as it is, a cancellation would cancel it for everybody.
    """

    def __init__(self, pipe: int, output: _Output, pid: int) -> None:
        self.pid = pid
        self.exited = output.exited
        self._output = output
        self._pipe: int | None = pipe
        self._given_up = False
        self._kills_before = kills_for_memory()
        self.exited.add_done_callback(self._sweep)

    @classmethod
    async def start(
        cls, ticket: Ticket, *, env: Mapping[str, str] | None = None, command: Sequence[str] = COMMAND
    ) -> Child:
        """Start `command` with `ticket` on its standard input and `env` added to the environment.

        Returns as soon as the process exists; whether the worker gets ready is told by its messages.
        Raises FrameError if the ticket cannot be sent, OSError if the system refuses a process.
        """
        line = encode_ticket(ticket)
        read, write = os.pipe()
        _death_pipes.add(write)
        try:
            transport, output = await _spawn(
                [str(read), _socket_path(ticket), *command], read, _environment(env), ticket.worker
            )
        except BaseException:
            _close_pipe(write)
            raise
        finally:
            os.close(read)
        _hand_over(transport, line)
        return cls(write, output, transport.get_pid())

    def how_it_ended(self) -> str:
        """As `Handle.how_it_ended`. That memory ran out is a guess: some process was killed for that meanwhile."""
        status = self.exited.result()
        killed = status == -signal.SIGKILL and not self._given_up
        return in_words(status, out_of_memory=killed and kills_for_memory() > self._kills_before)

    def log_tail(self) -> str:
        """Return the last lines the worker wrote to standard output and error."""
        return self._output.tail()

    def kill(self) -> None:
        """End the worker and all its descendants now. Killing twice, or after the end, is harmless."""
        if self._pipe is not None:
            _close_pipe(self._pipe)
            self._pipe = None
            loop = self.exited.get_loop()
            if loop.is_closed():
                self._output.abandon()
            elif not self.exited.done():
                self._given_up = True
                loop.call_later(_KILL_PATIENCE, self._kill_group)

    def _sweep(self, exited: asyncio.Future[int]) -> None:
        self.kill()
        if exited.result() == -signal.SIGKILL:
            self._kill_group(after_exit=True)

    def _kill_group(self, *, after_exit: bool = False) -> None:
        """Kill by process group: the last resort if the supervisor was killed itself, or does not react."""
        if after_exit or not self.exited.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


class _Output(asyncio.SubprocessProtocol):
    """Keeps the last lines of a child and tells when it has ended."""

    def __init__(self, worker: str) -> None:
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._worker = worker
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._partial = b""
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = rest[-_LONGEST_LINE:]
        for line in lines:
            self._keep(line)

    def process_exited(self) -> None:
        # The pipes end a moment later than the process; what it wrote last is worth that moment.
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, self._finish)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish()

    def tail(self) -> str:
        last = [self._partial.decode(errors="replace")] if self._partial else []
        return "\n".join([*self._lines, *last])

    def abandon(self) -> None:
        """The event loop has ended: nobody will read the pipes."""
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # closing it, asyncio wants to tell the loop
                self._transport.close()

    def _keep(self, line: bytes) -> None:
        text = line[:_LONGEST_LINE].decode(errors="replace").rstrip("\r")
        self._lines.append(text)
        _logger.debug("%s: %s", self._worker, text)

    def _finish(self) -> None:
        if not self.exited.done() and self._transport is not None:
            code = self._transport.get_returncode()
            if code is not None:
                self.exited.set_result(128 - code if code > 128 else code)
                self._transport.close()


async def _spawn(
    arguments: list[str], pipe: int, env: dict[str, str], worker: str
) -> tuple[asyncio.SubprocessTransport, _Output]:
    return await asyncio.get_running_loop().subprocess_exec(
        lambda: _Output(worker),
        sys.executable,
        "-S",
        "-E",
        _SUPERVISOR,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
        pass_fds=(pipe,),
        start_new_session=True,
    )


def _hand_over(transport: asyncio.SubprocessTransport, line: bytes) -> None:
    stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
    stdin.write(line)
    stdin.close()


def _socket_path(ticket: Ticket) -> str:
    kind, _, path = ticket.address.partition("://")
    return path if kind == "ipc" else ""


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """Let the worker import what the caller can: the package itself, and engines of the caller's own."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})}


def _close_pipe(pipe: int) -> None:
    _death_pipes.discard(pipe)
    os.close(pipe)


def _forget_pipes() -> None:
    """In a forked child of the cluster: an open write end there would outlive the cluster."""
    for pipe in tuple(_death_pipes):
        _close_pipe(pipe)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pipes)
