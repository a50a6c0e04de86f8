"""How a cluster reaches its engines, whatever runs them: what it asks of a pool, and what it hears from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from preble.backends import EngineInfo
from preble.backends.openai.retokenize import TextTokenizer
from preble.errors import PrebleError, WorkerLostError
from preble.transport.schema import Step, ToWorker
from preble.workers.binding import Device


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a pool tells about its workers. It calls these on the event loop that started it, and none may block.

    `on_step(worker, step)`: all news of a worker, in order. `on_failed(worker, id, error)`: the request of that
    worker request id failed with a typed error. `on_lost(worker, error)`: the worker is gone and aborted what it
    had; it is told once, and not for workers that `Pool.remove` took out. `on_found(worker, info)`: a lost one
    serves again, with an empty cache, or one that was missing at the start has come. `on_stopping(worker)`: it
    accepts no more requests, though the cluster did not tell it to stop.
    """

    on_step: Callable[[str, Step], None]
    on_failed: Callable[[str, int, PrebleError], None]
    on_lost: Callable[[str, WorkerLostError], None]
    on_found: Callable[[str, EngineInfo], None]
    on_stopping: Callable[[str], None]


class Pool(Protocol):
    """The workers of one cluster, spoken to by name. All calls come from one event loop."""

    async def start(
        self, listener: Listener, timeout: float, text: TextTokenizer | None = None
    ) -> dict[str, EngineInfo]:
        """Start or connect all workers and return what each can do. If one fails, none is left.

        `text` is the model's tokenizer, if the cluster has it, for servers that take no token ids. Raises ModelError or
        ConfigurationError as the engine says, WorkerStartError if a worker is not ready within `timeout` seconds.
        """

    async def add(
        self,
        timeout: float,
        *,
        url: str | None = None,
        cpus: Sequence[int] | None = None,
        devices: Sequence[Device] | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> tuple[str, EngineInfo]:
        """Start or connect one more worker, and return its name and what it can do. If that fails, nothing is left.

        Raises ConfigurationError for an argument that workers of this pool do not have, and what `start` raises.
        """

    async def remove(self, worker: str) -> None:
        """Stop a worker, or leave a replica alone. It aborts what it has, and is not heard any more."""

    def awaits(self, worker: str) -> bool:
        """Whether a worker is lost at present and may be found again."""

    def missing(self) -> dict[str, str]:
        """Return the workers that are not there now and may still come, each with why it is not."""

    def send(self, worker: str, message: ToWorker) -> None:
        """Queue a message, without waiting. Raises WorkerLostError if it is gone, OverloadedError if it is slow."""

    async def reset_cache(self, worker: str) -> None:
        """Let a worker forget its cache, and wait until it has. Raises WorkerLostError or UnreachableError."""

    async def stop(self, grace: float) -> None:
        """Let requests finish within `grace` seconds, then end all workers. If cancelled, they are ended at once."""

    def kill(self) -> None:
        """End all workers now and free what they used, without waiting: the event loop may have ended."""

    def pids(self) -> dict[str, int]:
        """Return the process ids of those workers that are processes on this machine, by name, for operators."""
