"""What a pool asks of whatever starts its workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias

from preble.transport.memory import MemoryRouter
from preble.transport.schema import Ticket
from preble.transport.zeromq import Router
from preble.workers.binding import Binding

Receive: TypeAlias = Callable[[bytes, bytes], None]
"""`receive(peer, frame)` takes a frame of the worker whose ticket has that `identity`."""


class Handle(Protocol):
    """One worker that was started."""

    @property
    def exited(self) -> asyncio.Future[int]:
        """Ends with the exit status once nothing of the worker is left; negative is a signal. Not to be cancelled."""

    @property
    def pid(self) -> int | None:
        """The process id for operators, where the worker is a process on this machine."""

    def kill(self) -> None:
        """End the worker with all that it started, now. Killing twice, or after the end, is harmless."""

    def how_it_ended(self) -> str:
        """Say how it ended, such as "exit status 3" or "killed by SIGSEGV". Called after the end."""

    def log_tail(self) -> str:
        """Return the last lines that the worker wrote."""


class Launcher(Protocol):
    """Starts the workers of one pool."""

    def listen(self, receive: Receive) -> Router | MemoryRouter:
        """Open the end of the transport that the workers connect to. Called once, inside the event loop."""

    async def start(self, ticket: Ticket, binding: Binding) -> Handle:
        """Start a worker with this ticket, bound as described, and return as soon as it exists.

        Whether it gets ready, its messages tell. Raises FrameError if the ticket cannot be sent, ConfigurationError if
        such a worker cannot be bound so, OSError if the system refuses it.
        """
