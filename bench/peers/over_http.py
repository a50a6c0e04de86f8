"""SGLang's native API as a target: workers that serve it, alone or behind a router."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.peers.answer import Answer
from bench.peers.environment import UnavailableError
from bench.peers.http_client import Client, get
from bench.peers.letters import to_text
from bench.peers.processes import free_port, running
from bench.peers.routers import Router, serving

_DONE = b"data: [DONE]"


class Meta(msgspec.Struct, frozen=True):
    """The counts in an event."""

    prompt_tokens: int
    cached_tokens: int


class Event(msgspec.Struct, frozen=True):
    """The part of an event that is read."""

    meta_info: Meta


_decode = msgspec.json.Decoder(Event).decode


class OverHTTP:
    """Puts requests to these ports in turn. `counts` reads the counts from all events of an answer."""

    def __init__(
        self,
        ports: Sequence[int],
        routers: list[int],
        workers: list[int],
        *,
        quick_ack: bool = True,
        counts: Callable[[bytes], Meta] | None = None,
    ) -> None:
        self.client = Client(ports, quick_ack=quick_ack)
        self.routers = routers
        self.workers = workers
        self._counts = counts or last_event

    def ordinary(self) -> OverHTTP:
        """Return the same with a client that leaves acknowledgements to the kernel."""
        return OverHTTP(self.client.ports, self.routers, self.workers, quick_ack=False)

    def prepare(self, tokens: bytes, max_tokens: int) -> bytes:
        """Return the whole HTTP request."""
        sampling = {"max_new_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True}
        body = msgspec.json.encode({"text": to_text(tokens), "sampling_params": sampling, "stream": True})
        return post("/generate", body)

    async def ask(self, request: bytes) -> Answer:
        """Put a request and read all events. Raises UnavailableError if there is no whole answer."""
        try:
            response = await self.client.send(request)
        except OSError as error:
            raise UnavailableError(f"no answer: {error}") from None
        if response.status != 200:
            raise UnavailableError(f"answers with status {response.status}: {response.body[:200]!r}")
        meta = self._counts(response.body)
        return Answer(response.first, response.end, meta.prompt_tokens, meta.cached_tokens)


def last_event(stream: bytes) -> Meta:
    """Return the counts in the last event before `[DONE]`."""
    return _decode(last_part(stream)).meta_info


def last_part(stream: bytes) -> bytes:
    """Return the JSON of the last event before `[DONE]`."""
    *_, last = (part for part in stream.split(b"\n\n") if part and part != _DONE)
    return last.removeprefix(b"data: ")


def post(path: str, body: bytes) -> bytes:
    """Return the whole HTTP request that puts this JSON there."""
    head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"POST {path} HTTP/1.1\r\n{head}\r\n\r\n".encode() + body


@asynccontextmanager
async def direct(options: Mapping[str, Any], count: int, folder: Path) -> AsyncIterator[OverHTTP]:
    """Yield workers asked in turn, with nothing between. Raises UnavailableError."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(_worker(options, folder / f"worker{n}.log")) for n in range(count)]
        target = OverHTTP([port for port, _ in workers], [], [pid for _, pid in workers])
        stack.callback(target.client.close)
        yield target


@asynccontextmanager
async def behind(
    router: Router, policy: str, options: Mapping[str, Any], count: int, folder: Path
) -> AsyncIterator[OverHTTP]:
    """Yield workers behind a router. Raises UnavailableError."""
    async with (
        direct(options, count, folder) as workers,
        serving(router, policy, workers.client.ports, folder / "router.log") as (port, pid),
    ):
        target = OverHTTP([port], [pid], workers.workers)
        yield target
        target.client.close()


@asynccontextmanager
async def _worker(options: Mapping[str, Any], log: Path) -> AsyncIterator[tuple[int, int]]:
    port = free_port()
    command = [sys.executable, "-m", "bench.peers.http_worker", str(port), msgspec.json.encode(options).decode()]
    async with running(command, log, partial(_healthy, port)) as pid:
        yield port, pid


async def _healthy(port: int) -> bool:
    return await get(port, "/health") is not None
