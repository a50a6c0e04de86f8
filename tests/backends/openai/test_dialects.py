"""The `openai` engine over servers of every dialect: whatever they speak, the same comes out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

pytest.importorskip("aiohttp", reason="the openai engine needs aiohttp")

from preble import PrebleCluster
from preble.backends import Delta, EngineRequest
from preble.backends.openai.engine import OpenAIEngine
from preble.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    PrebleError,
    UnreachableError,
)
from preble.tokens import pack, unpack
from preble.types import SamplingParams
from tests.dialects import DIALECTS, NAME, Dialect
from tests.openai_server import OpenAIServer
from tests.text.kinds import kind

LIMIT = 512
TOKENIZER, _ = kind("gpt-2")
VOCABULARY = TOKENIZER._rust.get_vocab_size()
PROMPT = TOKENIZER.encode("What does an error carry besides its text? ") * 3
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
WHY = "the KV cache is exhausted"
ASSUMED = 131_072
STREAMING = [name for name, dialect in DIALECTS.items() if not dialect.document]


@pytest.fixture(params=DIALECTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    TOKENIZER._rust.save(str(path / "tokenizer.json"))
    return path


@pytest_asyncio.fixture
async def server(name: str) -> AsyncIterator[OpenAIServer]:
    async with server_of(name) as server:
        yield server


@pytest_asyncio.fixture
async def engine(server: OpenAIServer) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(url=server.url, text=TOKENIZER, **options(server))
    await engine.start()
    yield engine
    await engine.close()


def server_of(name: str, **more: object) -> OpenAIServer:
    return OpenAIServer(name, tokenizer=TOKENIZER, vocab_size=VOCABULARY, context_limit=LIMIT, **more)


def options(server: OpenAIServer) -> dict[str, object]:
    several = {"served_model": NAME} if "slashes" in server.kind else {}
    return {"vocab_size": VOCABULARY, "backoff": 0.001, **several, **server.dialect.options}


async def run(
    engine: OpenAIEngine,
    sampling: SamplingParams = GREEDY,
    prompt: list[int] = PROMPT,
    *,
    id: int = 1,
    priority: int = 0,
) -> list[Delta]:
    return [delta async for delta in engine.generate(EngineRequest(id, pack(prompt), sampling, priority))]


async def failure(engine: OpenAIEngine) -> PrebleError:
    with pytest.raises(PrebleError) as caught:
        await run(engine)
    return caught.value


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in unpack(delta.tokens)]


def heard(server: OpenAIServer, deltas: list[Delta]) -> object:
    """What came here: ids, or the text of ids that need not be the server's."""
    return tokens(deltas) if server.dialect.returns_ids else TOKENIZER.decode(tokens(deltas))


def said(server: OpenAIServer, request: int = -1) -> object:
    """What the server said."""
    ids = server.said[request]
    return ids if server.dialect.returns_ids else TOKENIZER.decode(ids)


async def test_it_is_found_out_what_the_server_is(engine: OpenAIEngine, server: OpenAIServer):
    info, dialect = await engine.start(), server.dialect
    assert info.model == NAME
    assert info.context_limit == (LIMIT if dialect.tells_context else ASSUMED)
    told = dialect.native or dialect.vllm_metrics
    assert info.kv_tokens == (4096 if told else 200_000)


async def test_what_the_server_says_comes_out_and_why_it_ends(engine: OpenAIEngine, server: OpenAIServer):
    deltas = await run(engine)
    assert heard(server, deltas) == said(server)
    assert len(server.said[0]) == 12
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]
    assert deltas[-1].finish_reason == "length"


async def test_a_prompt_arrives_as_it_was(engine: OpenAIEngine, server: OpenAIServer):
    await run(engine)
    body = server.bodies[-1]
    sent = body["input_ids"] if server.dialect.native else body["prompt"]
    assert sent == (PROMPT if server.dialect.takes_ids else TOKENIZER.decode(PROMPT))
    assert server.dialect.native or body["model"] == NAME


async def test_a_response_that_stops_early_says_so(engine: OpenAIEngine, server: OpenAIServer):
    server.stop_after = 5
    deltas = await run(engine)
    assert heard(server, deltas) == said(server)
    assert (len(server.said[0]), deltas[-1].finish_reason) == (5, "stop")


async def test_usage_is_the_server_s_where_it_tells_it(engine: OpenAIEngine, server: OpenAIServer):
    for cached in (0, len(PROMPT) - len(PROMPT) % 16):
        deltas = await run(engine)
        told = server.dialect.usage != "never"
        if server.dialect.returns_ids:
            counts = [delta.cached_tokens for delta in deltas if delta.cached_tokens is not None]
            assert counts == ([cached] if told or server.dialect.native else [])
        else:
            assert deltas[-1].output_tokens == (12 if told else None)
            assert deltas[-1].prompt_tokens == (len(PROMPT) + 1 if told else None)


@pytest.mark.parametrize("name", STREAMING)
@pytest.mark.parametrize("where", ["first", "midway"])
async def test_an_error_in_a_stream_has_the_server_s_words_once(engine: OpenAIEngine, server: OpenAIServer, where: str):
    for status, type_ in ((400, InvalidRequestError), (429, OverloadedError), (500, EngineError)):
        server.failures.append((where, status, WHY))
        error = await failure(engine)
        assert type(error) is (type_ if server.dialect.codes else EngineError)
        assert str(error).count(WHY) == 1
    assert len(server.bodies) == 3
    assert heard(server, await run(engine)) == said(server)


async def test_an_error_instead_of_a_response_has_the_server_s_words_once(engine: OpenAIEngine, server: OpenAIServer):
    for status, type_ in (
        (400, InvalidRequestError), (422, InvalidRequestError), (429, OverloadedError), (500, EngineError)
    ):  # fmt: skip
        server.failures.append(("status", status, WHY))
        error = await failure(engine)
        assert type(error) is type_
        assert str(error).count(WHY) == 1
        assert error.retry_after == (3.0 if status == 429 else None)
    assert len(server.bodies) == 4


async def test_a_prompt_that_is_too_long_is_told_by_the_server(engine: OpenAIEngine, server: OpenAIServer):
    with pytest.raises(ContextLengthError) as caught:
        await run(engine, prompt=[7] * (LIMIT + 5))
    words = server.dialect.too_long[1]
    assert words[:15].split("{")[0] in str(caught.value)
    assert heard(server, await run(engine)) == said(server)


@pytest.mark.parametrize("name", STREAMING)
async def test_a_stream_that_breaks_has_not_ended(engine: OpenAIEngine, server: OpenAIServer):
    server.cuts.append(5)
    got: list[Delta] = []

    async def read() -> None:
        async for delta in engine.generate(EngineRequest(1, pack(PROMPT), GREEDY)):
            got.append(delta)  # noqa: PERF401 what came before the error counts

    with pytest.raises(UnreachableError):
        await read()
    assert not [delta for delta in got if delta.finish_reason]


async def test_many_at_once_are_kept_apart(engine: OpenAIEngine, server: OpenAIServer):
    prompts = [[*PROMPT, 10 + number] for number in range(8)]
    all_deltas = await asyncio.gather(*(run(engine, prompt=prompt, id=id) for id, prompt in enumerate(prompts)))
    got = sorted(str(heard(server, deltas)) for deltas in all_deltas)
    assert got == sorted(str(said(server, request)) for request in range(8))
    assert len(set(got)) == 8


async def test_an_end_here_ends_the_request_there(name: str):
    async with server_of(name, time_scale=1.0) as server:
        engine = OpenAIEngine(url=server.url, text=TOKENIZER, **options(server))
        await engine.start()
        long = SamplingParams(max_tokens=400, temperature=0.0)
        aborted = asyncio.create_task(run(engine, sampling=long, id=1))
        closed = asyncio.create_task(run(engine, sampling=long, id=2))
        await until(lambda: server.engine.load().running == 2)
        engine.abort(1)
        closed.cancel()
        assert (await aborted)[-1] == Delta(b"", finish_reason="abort")
        await until(lambda: server.engine.load().running == 0)
        assert engine.load().running == 0
        await engine.close()


async def test_a_priority_means_the_same_everywhere(
    engine: OpenAIEngine, server: OpenAIServer, caplog: pytest.LogCaptureFixture
):
    dialect = server.dialect
    caplog.set_level(logging.WARNING)
    for priority in (-5, 0, 5):
        await run(engine, priority=priority)
    sent = [body.get("priority") for body in server.bodies]
    if dialect.native:
        assert sent == ([-5 * dialect.priority, 0, 5 * dialect.priority] if dialect.priority else [None] * 3)
        assert caplog.text.count("priorities are ignored") == (dialect.priority == 0)
    else:
        assert sent == ([-5, None, 5] if dialect.returns_ids else [None] * 3)


async def test_its_health_is_known(engine: OpenAIEngine, server: OpenAIServer):
    await engine.ping()
    await server.stop()
    with pytest.raises(UnreachableError):
        await engine.ping()


async def test_a_cluster_of_it_says_what_the_server_said(server: OpenAIServer, folder: Path):
    text = "What does an error carry besides its text?"
    cluster = PrebleCluster.connect([server.url], model=folder, engine_options=options(server))
    async with cluster:
        out = await cluster.generate(TOKENIZER.encode(text), GREEDY)
        assert out.text == TOKENIZER.decode(server.said[-1])
        chunks = [chunk async for chunk in cluster.stream(TOKENIZER.encode(text), GREEDY)]
        assert "".join(chunk.text for chunk in chunks) == TOKENIZER.decode(server.said[-1])
        again = out.usage.prompt_tokens - len(TOKENIZER.encode(text))
        assert again == (not server.dialect.returns_ids and server.dialect.usage != "never")
        if server.dialect.returns_ids or server.dialect.usage != "never":
            assert out.usage.output_tokens == chunks[-1].usage.output_tokens == 12
        assert out.finish_reason == chunks[-1].finish_reason == "length"


def test_the_dialects_differ():
    assert all(isinstance(dialect, Dialect) for dialect in DIALECTS.values())
    assert len(DIALECTS) >= 40


async def until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
