"""The `openai` engine against real servers: `vllm serve` and SGLang on a small model, tokens compared with torch's."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the openai engine needs aiohttp")
pytest.importorskip("torch", reason="tokens are compared with the torch engine's")

from preble import PrebleCluster, SamplingParams
from preble.backends import Delta, Engine, EngineRequest
from preble.backends.openai.engine import OpenAIEngine
from preble.backends.torch.engine import TorchEngine
from preble.errors import InvalidRequestError
from preble.testing import make_model
from preble.tokens import pack, unpack
from tests.cluster.cases import serving
from tests.engines.servers import Server

CONTEXT, KV_TOKENS = 2048, 4096
BLOCK = {"vllm": 32, "sglang": 16}
GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
PROMPT = [(7 * index) % 4000 + 6 for index in range(300)]
START = 300.0
SIZES = {
    "vllm": [
        "--block-size", "32", "--num-gpu-blocks-override", str(KV_TOKENS // 32), "--max-model-len", str(CONTEXT),
        "--max-num-seqs", "8",
    ],
    "sglang": [
        "--max-total-tokens", str(KV_TOKENS), "--page-size", "16", "--max-running-requests", "8", "--context-length",
        str(CONTEXT),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), context=CONTEXT)


@pytest.fixture(scope="module")
def servers(model: Path) -> Iterator[dict[str, Server]]:
    with tempfile.TemporaryDirectory() as folder:
        made = {
            kind: Server(kind, model, folder, sizes)
            for kind, sizes in SIZES.items()
            if importlib.util.find_spec(kind) is not None
        }
        for server in made.values():
            server.start()
        yield made
        for server in made.values():
            server.kill()


@pytest.fixture(params=list(BLOCK))
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    if request.param not in servers:
        pytest.skip(f"{request.param} is not installed: make test-engines installs it")
    return servers[request.param]


def engine_of(server: Server, model: Path) -> OpenAIEngine:
    return OpenAIEngine(url=server.url, model=str(model), kv_events=server.events)


async def started(server: Server, model: Path) -> OpenAIEngine:
    engine = engine_of(server, model)
    try:
        async with asyncio.timeout(START):
            await engine.start()
    except TimeoutError:
        pytest.fail(f"{server.kind} did not start:\n{server.log()}")
    return engine


async def run(engine: Engine, prompt: list[int] = PROMPT, sampling: SamplingParams = GREEDY) -> list[Delta]:
    return [delta async for delta in engine.generate(EngineRequest(1, pack(prompt), sampling))]


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in unpack(delta.tokens)]


def cached(deltas: list[Delta]) -> int:
    (count,) = (delta.cached_tokens for delta in deltas if delta.cached_tokens is not None)
    return count


async def torch_deltas(model: Path, *runs: tuple[list[int], SamplingParams]) -> list[list[Delta]]:
    engine = TorchEngine(model=str(model), device="cpu", dtype="float32")
    await engine.start()
    deltas = [await run(engine, *each) for each in runs]
    await engine.close()
    return deltas


async def test_tokens_are_torch_s_with_and_without_a_cached_prefix(server: Server, model: Path):
    (wanted,) = await torch_deltas(model, (PROMPT, GREEDY))
    engine = await started(server, model)
    await engine.reset_cache()
    first, second = await run(engine), await run(engine)
    assert tokens(first) == tokens(second) == tokens(wanted)
    assert (cached(first), cached(second)) == (0, 288)
    assert first[-1].finish_reason == "length"
    await engine.close()


async def test_it_says_what_it_can_do(server: Server, model: Path):
    engine = engine_of(server, model)
    info = await engine.start()
    assert (info.model, info.vocab_size, info.context_limit) == ("small", 4096, CONTEXT)
    assert (info.kv_tokens, info.block_size) == (KV_TOKENS, BLOCK[server.kind])
    assert info.reports_evictions
    await engine.close()


async def test_logprobs_and_stop_tokens_are_torch_s(server: Server, model: Path):
    asked = SamplingParams(max_tokens=8, temperature=0.0, logprobs=3, ignore_eos=True)
    (wanted,) = await torch_deltas(model, (PROMPT, asked))
    engine = await started(server, model)
    got = await run(engine, PROMPT, asked)
    for ours, theirs in zip(
        (entry for delta in wanted for entry in delta.logprobs or ()),
        (entry for delta in got for entry in delta.logprobs or ()),
        strict=True,
    ):
        assert theirs.token_id == ours.token_id
        assert theirs.logprob == pytest.approx(ours.logprob, abs=1e-3)
        assert [id for id, _ in theirs.top] == [id for id, _ in ours.top]
    stop = tokens(wanted)[4]
    last = (await run(engine, PROMPT, SamplingParams(max_tokens=8, temperature=0.0, stop_token_ids=(stop,))))[-1]
    assert (last.finish_reason, last.stop_reason) == ("stop", stop)
    await engine.close()


async def test_what_cannot_be_served_is_the_request_s_fault_and_harms_nobody(server: Server, model: Path):
    engine = await started(server, model)
    for prompt in ([4096], PROMPT * 8):
        with pytest.raises(InvalidRequestError):
            await run(engine, prompt)
    assert len(tokens(await run(engine))) == 24
    await engine.close()


async def test_an_abort_reaches_the_server(server: Server, model: Path):
    engine = await started(server, model)
    request = EngineRequest(1, pack(PROMPT), SamplingParams(max_tokens=1500, temperature=0.0, ignore_eos=True))
    async with aclosing(engine.generate(request)) as deltas:
        async for delta in deltas:
            if delta.tokens:
                engine.abort(1)
    assert delta.finish_reason == "abort"
    async with asyncio.timeout(30):
        while engine.load().running or engine.load().waiting:
            await asyncio.sleep(0.1)
            await run(engine, PROMPT[:20])  # an idle SGLang does not renew what it tells of its load
            await engine.read_load()
    await engine.close()


async def test_evictions_are_told(server: Server, model: Path):
    engine = await started(server, model)
    await engine.reset_cache()
    await run(engine, PROMPT)
    engine.cache_events()
    gone = set()
    for number in range(1, 9):
        await run(engine, [(31 * index + 137 * number) % 4000 + 6 for index in range(700)])
    async with asyncio.timeout(60):
        while not any(pack(PROMPT)[:64] == prefix[:64] for prefix in gone):
            gone |= {event.tokens for event in engine.cache_events()}
            await asyncio.sleep(0.05)
    assert cached(await run(engine, PROMPT)) < 288
    await engine.close()


async def test_a_killed_server_s_request_goes_on_at_the_other_and_it_comes_back(
    servers: dict[str, Server], model: Path
):
    if len(servers) < 2:
        pytest.skip("vllm and sglang are not both installed: make test-engines installs them")
    sampling = SamplingParams(max_tokens=300, temperature=0.0, ignore_eos=True)
    (wanted,) = await torch_deltas(model, (PROMPT, sampling))
    async with PrebleCluster.connect(
        [server.url for server in servers.values()],
        model=model,
        kv_events=[server.events for server in servers.values()],
        start_timeout=START,
    ) as cluster:
        got: list[int] = []
        workers: list[str] = []
        async for chunk in cluster.stream(PROMPT, sampling):
            got += chunk.token_ids
            workers.append(chunk.worker)
            if len(got) >= 20 and len(set(workers)) == 1:
                killed = next(server for server in servers.values() if server.url == chunk.worker)
                killed.kill()
        assert got == tokens(wanted)
        assert len(set(workers)) == 2
        killed.start()
        async with asyncio.timeout(START):
            while len(serving(cluster)) < 2:
                await asyncio.sleep(0.2)
        outs = await cluster.generate_many([[number + 6, *PROMPT] for number in range(8)], GREEDY)
        assert {out.worker for out in outs} == {server.url for server in servers.values()}
        cluster.check()
