"""Real engines' HTTP servers as workers: vLLM's and SGLang's on a CPU, with a small model. Linux only."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.engines import engine_options
from bench.peers.environment import UnavailableError
from bench.peers.http_client import Client, get
from bench.peers.processes import free_port, running
from bench.progress import progress

NAME = "small"
"""The model's name in requests."""
_SECONDS_TO_START = 600.0
_MAX_RUNNING, _MAX_BATCHED_TOKENS = 64, 512
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model in the core's process: one of its own would spin while it waits
}  # fmt: skip


class Kind(msgspec.Struct, frozen=True):
    """The command of a server but for its sizes, the option that names the model, and where its cache is emptied.

    `events` are what its configuration of KV events needs beside the address; `block_size` is in tokens.
    """

    module: str
    model: str
    options: Mapping[str, Any]
    reset: str
    events: Mapping[str, Any] = {}
    block_size: int = 16


_SGLANG = {
    "device": "cpu", "attention_backend": "torch_native", "sampling_backend": "pytorch", "grammar_backend": "none",
    "disable_cuda_graph": True, "disable_overlap_schedule": True, "skip_server_warmup": True, "sleep_on_idle": True,
    "enable_cache_report": True,
}  # fmt: skip
KINDS = {
    "vllm": Kind(
        "vllm.entrypoints.openai.api_server",
        "--model",
        {"enable_prompt_tokens_details": True},
        "/reset_prefix_cache",
        events={"enable_kv_cache_events": True},
        block_size=32,
    ),
    "sglang": Kind("sglang.launch_server", "--model-path", _SGLANG, "/flush_cache?timeout=5"),
}


class Server(msgspec.Struct, frozen=True):
    """One server that runs: its port, the process above all of its own, and where it publishes KV events."""

    kind: str
    port: int
    pid: int
    events: str

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def reset(self) -> None:
        """Empty its cache. Raises UnavailableError if it does not."""
        client = Client([self.port])
        head = f"POST {KINDS[self.kind].reset} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
        try:
            response = await client.send(head.encode())
        except OSError as error:
            raise UnavailableError(f"the server is gone: {error}") from None
        finally:
            client.close()
        if response.status != 200:
            raise UnavailableError(f"the cache stays: status {response.status}: {response.body[:200]!r}")


@asynccontextmanager
async def servers(
    kind: str, model: Path, count: int, *, kv_tokens: int, context: int, folder: Path
) -> AsyncIterator[list[Server]]:
    """Yield so many servers of these sizes, in tokens, that are healthy. Raises UnavailableError."""
    sizes = engine_options(
        kind,
        kv_tokens=kv_tokens,
        context_limit=context,
        block_size=KINDS[kind].block_size,
        max_running=_MAX_RUNNING,
        max_batched_tokens=_MAX_BATCHED_TOKENS,
    )
    sizes.pop("mode", None)  # of our worker, not of the engine
    async with AsyncExitStack() as stack:
        started = []
        with progress("starting", count) as done:
            for number in range(count):
                started.append(await stack.enter_async_context(_server(kind, model, sizes, folder, number)))
                done()
        yield started


@asynccontextmanager
async def _server(kind: str, model: Path, sizes: Mapping[str, Any], folder: Path, number: int) -> AsyncIterator[Server]:
    port, events = free_port(), f"ipc://{folder}/events{number}"
    async with running(
        command(kind, model, sizes, port, events),
        folder / f"server{number}.log",
        partial(_healthy, port),
        seconds=_SECONDS_TO_START,
        env=os.environ | _ENVIRONMENT | {"TMPDIR": str(folder)},
        start_new_session=True,
    ) as pid:
        yield Server(kind, port, pid, events)


def command(kind: str, model: Path, sizes: Mapping[str, Any], port: int, events: str) -> list[str]:
    """Return the command to serve a model folder on `port` and to publish KV events at `events`."""
    described = KINDS[kind]
    publisher = {**described.events, "publisher": "zmq", "endpoint": events, "topic": "kv"}
    return [
        *(sys.executable, "-m", described.module, described.model, str(model), "--served-model-name", NAME),
        *("--host", "127.0.0.1", "--port", str(port), "--kv-events-config", msgspec.json.encode(publisher).decode()),
        *flags({**described.options, **sizes}),
    ]


def flags(options: Mapping[str, Any]) -> list[str]:
    """Return options as arguments; one that is True has no value."""
    words: list[str] = []
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


async def _healthy(port: int) -> bool:
    return await get(port, "/health") is not None
