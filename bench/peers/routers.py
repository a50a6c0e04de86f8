"""The public routers: packages, commands, and when they are ready."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path

import msgspec

from bench.peers.environment import installed
from bench.peers.http_client import get
from bench.peers.processes import free_port, running


class Router(msgspec.Struct, frozen=True):
    """A router's package, and the program of its environment with the arguments before the options."""

    name: str
    version: str
    program: tuple[str, ...]

    def command(self, policy: str, workers: Sequence[int], port: int) -> list[str]:
        """Return the command to serve on `port` in front of workers' ports; thresholds stay at their defaults."""
        program, *arguments = self.program
        return [
            str(python_of(self).with_name(program)),
            *arguments,
            *("--policy", policy, "--host", "127.0.0.1", "--port", str(port)),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
            *("--max-concurrent-requests", "1024", "--disable-health-check", "--log-level", "error"),
            *("--worker-urls", *(f"http://127.0.0.1:{worker}" for worker in workers)),
        ]


SGLANG_ROUTER = Router("sglang-router", "0.3.2", ("python", "-m", "sglang_router.launch_router"))
SMG = Router("smg", "1.13.0", ("smg", "launch"))


class Listed(msgspec.Struct, frozen=True):
    """The part of a router's list of workers that is read."""

    total: int


@cache
def python_of(router: Router) -> Path:
    """Return the Python of the router's environment, made if need be. Raises UnavailableError."""
    return installed(router.name, f"{router.name}=={router.version}")


@asynccontextmanager
async def serving(router: Router, policy: str, workers: Sequence[int], log: Path) -> AsyncIterator[tuple[int, int]]:
    """Yield port and process id of a router that knows all its workers. Raises UnavailableError."""
    port = free_port()
    knows_all = partial(_knows, port, len(workers))
    async with running(router.command(policy, workers, port), log, knows_all) as pid:
        yield port, pid


async def _knows(port: int, workers: int) -> bool:
    body = await get(port, "/workers")
    return body is not None and msgspec.json.decode(body, type=Listed).total == workers
