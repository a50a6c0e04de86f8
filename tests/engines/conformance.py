"""What the engines' tests share: the engines, all of one size, and what is asked of them.

A new engine joins with an entry in `ENGINES`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from preble.backends import BACKENDS, Delta, Engine, EngineInfo, EngineRequest
from preble.tokens import pack, unpack
from preble.tree import RadixTree
from preble.types import SamplingParams, TokenLogprob
from tests.engines.servers import Server

BLOCK = 32
BLOCKS = 64
CONTEXT = 1024
MAX_RUNNING = 8
MAX_BATCHED = 256
VOCAB = 4096
PATIENCE = 120
"""So many seconds may anything take that is waited for: it is only used up where something is wrong."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One engine under test: its backend, what must be installed, its options of the common size.

    `computes` says that tokens come from the model, so that they can be compared with those of others. `refuses` are
    the sampling parameters that it cannot do; `output_only` says that its repetition penalty, of 2 at most, does not
    look at the prompt. `server` names whose HTTP server is started for the tests, if it stands for one.
    """

    backend: str
    options: dict[str, Any]
    needs: tuple[str, ...] = ()
    computes: bool = True
    refuses: tuple[str, ...] = ()
    output_only: bool = False
    server: str = ""


_VLLM = {
    "block_size": BLOCK,
    "num_gpu_blocks_override": BLOCKS + 1,
    "max_model_len": CONTEXT,
    "max_num_seqs": MAX_RUNNING,
    "max_num_batched_tokens": MAX_BATCHED,
    "dtype": "float32",
    "enforce_eager": True,
}
_SGLANG = {
    "page_size": BLOCK,
    "max_total_tokens": BLOCKS * BLOCK,
    "context_length": CONTEXT + 6,  # SGLang keeps these for itself
    "max_running_requests": MAX_RUNNING,
    "chunked_prefill_size": MAX_BATCHED,
    "dtype": "float32",
}
_OURS = {
    "block_size": BLOCK,
    "kv_tokens": BLOCKS * BLOCK,
    "context_limit": CONTEXT,
    "max_running": MAX_RUNNING,
    "max_batched_tokens": MAX_BATCHED,
}

_VLLM_SERVER = (
    "--block-size", str(BLOCK), "--num-gpu-blocks-override", str(BLOCKS + 1), "--max-model-len", str(CONTEXT),
    "--max-num-seqs", str(MAX_RUNNING), "--max-num-batched-tokens", str(MAX_BATCHED), "--scheduling-policy", "priority",
)  # fmt: skip
_SGLANG_SERVER = (
    "--page-size", str(BLOCK), "--max-total-tokens", str(BLOCKS * BLOCK), "--context-length", str(CONTEXT + 6),
    "--max-running-requests", str(MAX_RUNNING), "--chunked-prefill-size", str(MAX_BATCHED),
    "--enable-priority-scheduling", "--schedule-low-priority-values-first", "--disable-priority-preemption",
    "--load-snapshot-publish-interval", "1",  # it would tell of every 15th step only
)  # fmt: skip
_SERVERS = {"vllm": _VLLM_SERVER, "sglang": _SGLANG_SERVER}
_REPLICA = {"context_limit": CONTEXT, "kv_tokens": BLOCKS * BLOCK, "max_running": MAX_RUNNING}

ENGINES: dict[str, Case] = {
    # A millisecond a step: what takes no time at all cannot be aborted midway.
    "sim": Case(backend="sim", options=_OURS | {"vocab_size": VOCAB, "time_scale": 0.05}, computes=False),
    "torch": Case(backend="torch", options=_OURS | {"device": "cpu", "dtype": "float32"}, needs=("torch",)),
    "vllm": Case(backend="vllm", options=_VLLM, needs=("vllm",)),
    "vllm-inline": Case(backend="vllm", options=_VLLM | {"mode": "inline", "discipline": "fcfs"}, needs=("vllm",)),
    "sglang": Case(
        backend="sglang",
        options=_SGLANG | {"discipline": "fcfs"},
        needs=("sglang",),
        refuses=("seed",),
        output_only=True,
    ),
    "openai-vllm": Case(backend="openai", server="vllm", options=_REPLICA, needs=("vllm", "aiohttp")),
    "openai-sglang": Case(
        backend="openai",
        server="sglang",
        options=_REPLICA,
        needs=("sglang", "aiohttp"),
        refuses=("seed",),
        output_only=True,
    ),
}


def missing(case: Case) -> str | None:
    """Why this engine cannot be tested here, or None."""
    absent = [name for name in case.needs if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed: make test-engines installs it" if absent else None


def require(name: str) -> Case:
    """Return an engine's case, or skip the test with the reason."""
    case = ENGINES[name]
    if reason := missing(case):
        pytest.skip(reason)
    return case


@contextmanager
def serving(case: Case, model: Path) -> Iterator[dict[str, Any]]:
    """Run the server that an engine needs, if any; yields the engine's options that name it."""
    if not case.server:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        server = Server(case.server, model, folder, _SERVERS[case.server])
        server.start()
        try:
            yield {"url": server.url, "kv_events": server.events}
        finally:
            server.kill()


def make_engine(case: Case, model: Path, **options: Any) -> Engine:
    """Return the engine, not started."""
    module, _, name = BACKENDS[case.backend].path.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(model=str(model), **case.options | options)
    return engine


class Output:
    """Everything that one request's deltas said; `take` checks what holds for every stream."""

    def __init__(self, *, cached_last: bool = False) -> None:
        self._cached_last = cached_last
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.cached: int | None = None
        self.finish: str | None = None
        self.stop: int | None = None

    def take(self, delta: Delta) -> None:
        assert self.finish is None, "nothing comes after the finish reason"
        if delta.cached_tokens is not None:
            assert self.cached is None, "cached tokens are told once"
            assert self._cached_last or not self.tokens, "cached tokens are told first"
            self.cached = delta.cached_tokens
        self.tokens += unpack(delta.tokens)
        self.logprobs += delta.logprobs or ()
        self.finish, self.stop = delta.finish_reason, delta.stop_reason


class Running:
    """A started engine, and what a cluster would believe of its cache: prompts and outputs, less the evictions told."""

    def __init__(self, case: Case, engine: Engine, info: EngineInfo) -> None:
        self.case = case
        self.engine = engine
        self.info = info
        self.believed: dict[str, RadixTree] = {}
        self.last_id = 0

    async def generate(self, tokens: list[int], *, salt: str = "", priority: int = 0, **sampling: Any) -> Output:
        """Serve one request, by default 8 greedy tokens, to its end."""
        output = Output(cached_last=self.case.server == "vllm")
        async with aclosing(self.stream(tokens, salt=salt, priority=priority, **sampling)) as deltas:
            async for delta in deltas:
                output.take(delta)
        assert output.finish is not None, "a stream ends with a finish reason"
        return output

    def stream(self, tokens: list[int], *, salt: str = "", priority: int = 0, **sampling: Any) -> Any:
        """Return the engine's own stream of a request, whose id is `last_id` then."""
        self.last_id += 1
        given = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True} | sampling
        request = EngineRequest(self.last_id, pack(tokens), SamplingParams(**given), priority, salt)
        return self.engine.generate(request)

    async def probe(self, tokens: list[int], *, salt: str = "", exactly: bool = True, **sampling: Any) -> Output:
        """Serve a request, and compare the tokens it found cached with what a cluster would have believed.

        Events may come later than the answer they belong to, but not much: they are waited for. Unless `exactly`,
        more may be cached than believed: blocks can get back within reach of which nobody is told again.
        """
        output = await self.generate(tokens, salt=salt, **sampling)

        def right() -> bool:
            believed, cached = self.belief(tokens, salt), output.cached or 0
            return believed == cached or (believed < cached and not exactly)

        await self.until(right, "the cache is not as the events tell")
        self.believe(tokens + output.tokens[:-1], salt)
        return output

    def belief(self, tokens: list[int], salt: str = "") -> int:
        """Return how many tokens of a prompt the engine is believed to have cached, after all news so far."""
        for evicted in self.engine.cache_events():
            if not evicted.tokens:
                self.believed.clear()
            elif tree := self.believed.get(evicted.cache_salt):
                tree.truncate(evicted.tokens, evicted.keep, 0, worker_block_size=self.info.block_size)
        tree = self.believed.get(salt)
        matched = min(tree.match(pack(tokens)).tokens, len(tokens) - 1) if tree else 0
        return matched - matched % self.info.block_size

    def believe(self, tokens: list[int], salt: str = "") -> None:
        """Register that these tokens were computed."""
        tree = self.believed.setdefault(salt, RadixTree())
        tree.insert(pack(tokens), 0, pin=False, computed=True)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds; fail if it does not."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    await self._ask()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(what)

    async def idle(self) -> None:
        """Wait until the engine says that nothing runs."""
        await self.until(lambda: self.engine.load().running == 0, "something runs although nothing was asked")

    async def _ask(self) -> None:
        """Let a replica be asked for its load; others know it. An idle SGLang renews what it tells with a request.

        Nothing else is asked, as health is: SGLang takes a second for that, in which a quick machine does it all.
        """
        if self.case.server:
            await self.engine.read_load()  # type: ignore[attr-defined]
            if self.case.server == "sglang" and not self.engine._requests:  # type: ignore[attr-defined]
                await self.generate(prompt(999, 4), max_tokens=1)

    async def forget(self) -> None:
        """Empty the cache, and the belief with it."""
        await self.idle()
        await self.engine.reset_cache()
        self.engine.cache_events()
        self.believed.clear()

    def check(self) -> None:
        """Let the engine check its own invariants, if it can."""
        check = getattr(self.engine, "check", None) or getattr(getattr(self.engine, "core", None), "check", None)
        if check:
            check()


def prompt(number: int, length: int = 100) -> list[int]:
    """A prompt that shares nothing with those of other numbers."""
    return [(number * 131 + index * 7) % (VOCAB - 10) + 6 for index in range(length)]
