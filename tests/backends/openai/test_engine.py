"""The `openai` engine against a server in this process."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
import pytest_asyncio

pytest.importorskip("aiohttp", reason="the openai engine needs aiohttp")

from preble.backends import Delta, EngineRequest
from preble.backends.openai import engine as module
from preble.backends.openai.engine import OpenAIEngine
from preble.backends.sim import SimEngine
from preble.errors import (
    ConfigurationError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    PrebleError,
    UnreachableError,
)
from preble.tokens import MAX_TOKENS, pack, unpack
from preble.types import SamplingParams
from tests.openai_server import LAST, OpenAIServer

FAST = {"backoff": 0.001, "backoff_limit": 0.002, "vocab_size": 4096}
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
PROMPT = [(7 * index) % 4000 + 6 for index in range(100)]
KEY = "sk-very-secret-key"


@pytest.fixture(params=["vllm", "sglang"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture
async def server(kind: str) -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(kind) as server:
        yield server


@pytest_asyncio.fixture
async def engine(server: OpenAIServer) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(url=server.url, **FAST)
    await engine.start()
    yield engine
    await engine.close()


async def run(
    engine: OpenAIEngine | SimEngine, sampling: SamplingParams = GREEDY, prompt: list[int] = PROMPT, **fields: Any
) -> list[Delta]:
    request = EngineRequest(1, pack(prompt), sampling, **fields)
    return [delta async for delta in engine.generate(request)]


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in unpack(delta.tokens)]


async def expected(sampling: SamplingParams = GREEDY) -> list[Delta]:
    engine = SimEngine(vocab_size=4096)
    await engine.start()
    deltas = await run(engine, sampling)
    await engine.close()
    return deltas


async def test_a_server_tells_its_sizes(engine: OpenAIEngine, server: OpenAIServer):
    info = await engine.start()
    assert (info.model, info.context_limit, info.kv_tokens, info.block_size) == ("sim", 2048, 4096, 16)
    assert not info.reports_evictions
    assert info.discipline == "fcfs", "its own queue"
    assert info.vocab_size == 4096


async def test_tokens_and_the_finish_are_those_of_the_server_s_engine(engine: OpenAIEngine):
    deltas = await run(engine)
    assert tokens(deltas) == tokens(await expected())
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]
    assert deltas[-1].finish_reason == "length"


async def test_cached_tokens_are_told_once(engine: OpenAIEngine):
    first, second = await run(engine), await run(engine)
    assert [d.cached_tokens for d in first if d.cached_tokens is not None] == [0]
    assert [d.cached_tokens for d in second if d.cached_tokens is not None] == [96]


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_biases_and_logprobs_of_the_prompt_come_over(engine: OpenAIEngine, logprobs: int | None):
    sampling = SamplingParams(
        max_tokens=12, temperature=0.0, prompt_logprobs=3, logprobs=logprobs, logit_bias={7: 12.0, 8: -2.0}
    )
    wanted, got = await expected(sampling), await run(engine, sampling)
    assert tokens(got) == tokens(wanted)
    assert 7 in tokens(got)
    prompts = [[delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs] for deltas in (got, wanted)]
    assert prompts[0] == prompts[1]
    assert len(prompts[0]) == 1
    told = sum(len(delta.logprobs or ()) for delta in got)
    assert told == (0 if logprobs is None else 12)


async def test_a_bias_outside_the_vocabulary_is_not_sent(engine: OpenAIEngine, server: OpenAIServer):
    with pytest.raises(InvalidRequestError, match="logit_bias: token id 4096"):
        await run(engine, SamplingParams(logit_bias={4096: 1}))
    assert not server.bodies


async def test_logprobs_and_stop_tokens_come_over(engine: OpenAIEngine):
    sampling = SamplingParams(max_tokens=12, temperature=0.0, logprobs=3)
    wanted = await expected(sampling)
    got = await run(engine, sampling)
    logprobs = [entry for delta in got for entry in delta.logprobs or ()]
    assert logprobs == [entry for delta in wanted for entry in delta.logprobs or ()]
    stop = tokens(wanted)[4]
    last = (await run(engine, SamplingParams(max_tokens=12, temperature=0.0, stop_token_ids=(stop,))))[-1]
    assert (last.finish_reason, last.stop_reason) == ("stop", stop)


async def test_sampling_salt_and_priority_are_sent(engine: OpenAIEngine, server: OpenAIServer):
    sampling = SamplingParams(max_tokens=3, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=5, ignore_eos=True)
    await run(engine, sampling, priority=-3, cache_salt="tenant")
    body = server.bodies[0]
    fields = body if server.kind == "vllm" else {**body, **body["sampling_params"]}
    for name in ("temperature", "top_p", "top_k", "min_p", "ignore_eos"):
        assert fields[name] == getattr(sampling, name)
    assert fields["seed" if server.kind == "vllm" else "sampling_seed"] == 5
    assert (body["priority"], body["cache_salt"]) == (-3, "tenant")


async def test_a_broken_stream_is_an_error_after_its_tokens(engine: OpenAIEngine, server: OpenAIServer):
    server.cuts.append(5)
    deltas: list[Delta] = []

    async def collected() -> None:
        async for delta in engine.generate(EngineRequest(1, pack(PROMPT), GREEDY)):
            deltas.append(delta)  # noqa: PERF401, what came before the error counts

    with pytest.raises(UnreachableError) as caught:
        await collected()
    assert not caught.value.refused, "it is there"
    assert 0 < len(tokens(deltas)) < 12
    assert tokens(deltas) == tokens(await expected())[: len(tokens(deltas))]
    assert len(server.bodies) == 1, "who asked decides where it goes on"
    assert engine.load().running == 0


async def test_a_stream_that_breaks_after_all_its_tokens_has_ended(engine: OpenAIEngine, server: OpenAIServer):
    event = {
        "vllm": {"choices": [{"text": "???", "token_ids": [7, 8, 9]}]},
        "sglang": {"output_ids": [7, 8, 9], "meta_info": {"completion_tokens": 3}},
    }[server.kind]
    server.answers.append((200, {"Content-Type": "text/event-stream"}, f"data: {json.dumps(event)}\n\n"))
    deltas = await run(engine, SamplingParams(max_tokens=3))
    assert (tokens(deltas), deltas[-1].finish_reason) == ([7, 8, 9], "length")


async def test_a_stream_that_breaks_after_its_finish_reason_has_ended(engine: OpenAIEngine, server: OpenAIServer):
    stop = tokens(await expected())[4]
    server.cuts.append(LAST)
    deltas = await run(engine, SamplingParams(max_tokens=12, temperature=0.0, stop_token_ids=(stop,)))
    assert tokens(deltas) == tokens(await expected())[:5]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", stop)
    assert len(server.bodies) == 1


async def test_aborting_again_while_the_first_takes_effect_is_harmless(engine: OpenAIEngine, server: OpenAIServer):
    server.engine.options = msgspec.structs.replace(server.engine.options, time_scale=1.0)
    deltas = engine.generate(EngineRequest(1, pack(PROMPT), GREEDY))
    await anext(deltas)
    waiting = asyncio.ensure_future(anext(deltas))
    await asyncio.sleep(0)
    for _ in range(3):
        engine.abort(1)
        await asyncio.sleep(0)
    assert (await waiting).finish_reason == "abort"
    await deltas.aclose()


@pytest.mark.parametrize("status", [429, 503])
async def test_overload_is_told_with_the_wait_that_the_server_asks_for(
    engine: OpenAIEngine, server: OpenAIServer, status: int
):
    server.answers.append((status, {"Retry-After": "7"}, '{"error": {"message": "too many"}}'))
    with pytest.raises(OverloadedError, match="too many") as caught:
        await run(engine)
    assert caught.value.retry_after == 7.0
    assert len(server.bodies) == 1


async def test_the_wait_may_end_at_a_date(engine: OpenAIEngine, server: OpenAIServer):
    server.answers.append((429, {"Retry-After": formatdate(time.time() + 1000, usegmt=True)}, "too many"))
    with pytest.raises(OverloadedError) as caught:
        await run(engine)
    assert 900 < (caught.value.retry_after or 0) <= 1000


@pytest.mark.parametrize(
    "noise",
    [b": still here\n\n", b'data: {"choices": [], "meta_info": {"completion_tokens": 0}}\n\n', b"data: "],
)
async def test_what_is_no_token_does_not_keep_a_request_alive(engine: OpenAIEngine, server: OpenAIServer, noise: bytes):
    impatient = OpenAIEngine(url=server.url, idle_timeout=0.1, **FAST)
    await impatient.start()
    server.noise = noise
    with pytest.raises(UnreachableError, match=r"no token within 0\.1 s"):
        async with asyncio.timeout(10):
            await run(impatient)
    await impatient.close()
    server.noise = b""
    assert tokens(await run(engine)) == tokens(await expected())


async def test_tokens_keep_a_request_alive_however_long_it_takes(server: OpenAIServer):
    server.engine.options = msgspec.structs.replace(server.engine.options, time_scale=1.0)
    engine = OpenAIEngine(url=server.url, idle_timeout=1.0, **FAST)
    await engine.start()
    deltas = await run(engine, SamplingParams(max_tokens=80, temperature=0.0))
    assert len(tokens(deltas)) == 80
    await engine.close()


async def test_more_tokens_than_asked_for_are_cut(engine: OpenAIEngine, server: OpenAIServer):
    entries = [{"choices": [{"text": "??", "token_ids": [7, 8]}]}]
    if server.kind == "sglang":
        entries = [{"output_ids": [7, 8] * 100, "meta_info": {"completion_tokens": 2 * n}} for n in range(1, 100)]
    server.noise = b"".join(b"data: " + json.dumps(entry).encode() + b"\n\n" for entry in entries)
    async with asyncio.timeout(10):
        deltas = await run(engine, SamplingParams(max_tokens=5))
    assert tokens(deltas) == [7, 8, 7, 8, 7]
    assert deltas[-1].finish_reason == "length"
    assert engine.load().running == 0


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidRequestError), (422, InvalidRequestError), (401, ConfigurationError), (404, ConfigurationError),
     (500, EngineError)],
)  # fmt: skip
async def test_refusals_are_not_tried_again(
    engine: OpenAIEngine, server: OpenAIServer, status: int, error: type[Exception]
):
    server.answers.append((status, {}, '{"error": {"message": "this is why"}}'))
    with pytest.raises(error, match="this is why"):
        await run(engine)
    assert len(server.bodies) == 1


async def test_an_error_in_the_stream_is_raised(engine: OpenAIEngine, server: OpenAIServer):
    event = b'data: {"error": {"message": "out of memory", "code": 500}}\n\ndata: [DONE]\n\n'
    server.answers.append((200, {"Content-Type": "text/event-stream"}, event.decode()))
    with pytest.raises(EngineError, match="out of memory"):
        await run(engine)


@pytest.mark.parametrize("status", [200, 500])
async def test_what_is_compressed_is_refused_unread(engine: OpenAIEngine, server: OpenAIServer, status: int):
    """A thousand bytes could become a million, before any bound is looked at."""
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
    server.answers.append((status, headers, gzip.compress(b"data: " + b"x" * 1_000_000).decode("latin1")))
    with pytest.raises(EngineError, match="'gzip', which was not asked for"):
        await run(engine)


@pytest.mark.parametrize("nonsense", ["data: {nonsense\n\n", 'data: {"choices": 3, "output_ids": "x"}\n\n'])
async def test_nonsense_in_the_stream_is_an_error(engine: OpenAIEngine, server: OpenAIServer, nonsense: str):
    server.answers.append((200, {"Content-Type": "text/event-stream"}, nonsense))
    with pytest.raises(EngineError, match="not understood"):
        await run(engine)


async def test_a_stream_without_an_end_is_a_broken_one(engine: OpenAIEngine, server: OpenAIServer):
    server.answers.append((200, {"Content-Type": "text/event-stream"}, "data: [DONE]\n\n"))
    with pytest.raises(UnreachableError, match="broke off"):
        await run(engine)


async def test_more_ids_than_any_prompt_has_are_the_server_s_fault(engine: OpenAIEngine, server: OpenAIServer):
    ids = f"[5{',5' * MAX_TOKENS}]"
    event = f'data: {{"choices": [{{"token_ids": {ids}}}], "output_ids": {ids}}}\n\n'
    server.answers.append((200, {"Content-Type": "text/event-stream"}, event))
    with pytest.raises(EngineError, match="not understood"):
        await run(engine)


async def test_ids_outside_the_vocabulary_are_not_sent(engine: OpenAIEngine, server: OpenAIServer):
    with pytest.raises(InvalidRequestError, match="4096"):
        await run(engine, prompt=[4096])
    assert not server.bodies


async def test_abort_ends_the_stream_here_and_the_request_there(kind: str):
    async with OpenAIServer(kind, time_scale=1.0) as server:
        engine = OpenAIEngine(url=server.url, **FAST)
        await engine.start()
        deltas: list[Delta] = []
        async for delta in engine.generate(EngineRequest(9, pack(PROMPT), SamplingParams(max_tokens=2000))):
            deltas.append(delta)
            if len(deltas) == 2:
                asyncio.get_running_loop().call_soon(engine.abort, 9)
        assert deltas[-1] == Delta(b"", finish_reason="abort")
        await until(lambda: server.engine.load().running == 0)
        engine.abort(9)
        await engine.close()


async def test_a_closed_iterator_ends_the_request_there(kind: str):
    async with OpenAIServer(kind, time_scale=1.0) as server:
        engine = OpenAIEngine(url=server.url, **FAST)
        await engine.start()
        stream = engine.generate(EngineRequest(9, pack(PROMPT), SamplingParams(max_tokens=2000)))
        await anext(stream)
        await stream.aclose()
        await until(lambda: server.engine.load().running == 0)
        assert engine.load().running == 0
        await engine.close()


async def test_one_connection_serves_one_request_after_the_other(engine: OpenAIEngine, server: OpenAIServer):
    before = len(server.connections)
    for _ in range(5):
        await run(engine)
    assert len(server.connections) <= before + 1


async def test_load_is_what_the_server_tells(kind: str):
    async with OpenAIServer(kind, time_scale=1.0, max_running=1) as server:
        engine = OpenAIEngine(url=server.url, **FAST)
        await engine.start()
        streams = [
            engine.generate(EngineRequest(number, pack(PROMPT), SamplingParams(max_tokens=500))) for number in (1, 2)
        ]
        tasks = [asyncio.create_task(anext(stream)) for stream in streams]
        await until(lambda: server.engine.load().running + server.engine.load().waiting == 2)
        await engine.read_load()
        load = engine.load()
        assert (load.running, load.waiting) == (1, 1)
        assert load.used_tokens >= 96
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.close()


async def test_the_cache_can_be_reset_and_says_so(engine: OpenAIEngine):
    await run(engine)
    await engine.reset_cache()
    assert [event.tokens for event in engine.cache_events()] == [b""]
    assert [d.cached_tokens for d in await run(engine) if d.cached_tokens is not None] == [0]


async def test_a_server_that_is_gone_is_unreachable(engine: OpenAIEngine, server: OpenAIServer):
    await server.stop()
    with pytest.raises(UnreachableError) as caught:
        await run(engine)
    assert caught.value.refused
    with pytest.raises(UnreachableError):
        await engine.ping()
    with pytest.raises(UnreachableError):
        await engine.read_load()


async def test_a_server_that_does_not_answer_in_time_is_unreachable_and_says_what_was_asked(server: OpenAIServer):
    engine = OpenAIEngine(url=server.url, health_timeout=0.05, **FAST)
    await engine.start()
    server.healthy.clear()
    with pytest.raises(UnreachableError, match=r"no answer to GET /health within 0\.05 s"):
        await engine.ping()
    server.healthy.set()
    await engine.close()


async def test_what_a_start_waits_for_can_be_read(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch):
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "describe", never)
    engine = OpenAIEngine(url=server.url, **FAST)
    for status, problem in ((200, "it is healthy, but has not told yet"), (500, "HTTP 500: no explanation")):
        server.status = status
        starting = asyncio.create_task(engine.start())
        await until(lambda problem=problem: engine.problem.startswith(problem))
        starting.cancel()
        await asyncio.wait((starting,))
    await engine.close()


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json", "text/html"])
async def test_an_error_may_be_a_long_document_whatever_it_is_called(
    engine: OpenAIEngine, server: OpenAIServer, content_type: str
):
    document = f'{{"padding": "{"x" * 50_000}", "error": {{"message": "this is why", "code": 400}}}}'
    for status in (200, 400):
        server.answers.append((status, {"Content-Type": content_type}, document))
        with pytest.raises(InvalidRequestError, match=r": this is why$"):
            await run(engine)


async def test_health_may_be_elsewhere(server: OpenAIServer):
    server.status = 503
    elsewhere = OpenAIEngine(url=server.url, health_path="/server_info", **FAST)
    await elsewhere.start()
    await elsewhere.ping()
    assert server.checks == 0
    await elsewhere.close()


async def test_a_start_waits_until_the_server_is_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine = OpenAIEngine(url=f"http://127.0.0.1:{port}", **FAST)
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    async with OpenAIServer(port=port):
        assert (await starting).model == "sim"
        await engine.close()


async def test_a_key_is_sent_and_shown_nowhere(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with OpenAIServer(api_key=KEY) as server:
        engine = OpenAIEngine(url=server.url, api_key=KEY, **FAST)
        await engine.start()
        server.answers.append((500, {}, f"I do not like {KEY}"))
        with pytest.raises(EngineError, match="I do not like") as failed:
            await run(engine)
        for status, error in ((200, "data: %s\n\n"), (400, "%s")):
            body = error % json.dumps({"error": {"message": f"I know {KEY}"}}).replace("-", "\\u002d")
            server.answers.append((status, {"Content-Type": "text/event-stream"}, body))
            with pytest.raises(PrebleError, match=r"I know \[api key\]"):
                await run(engine)
        await server.stop()
        with pytest.raises(UnreachableError) as gone:
            await run(engine)
        await engine.close()
        shown = [caplog.text, repr(engine), repr(engine.options), *chain(failed.value), *chain(gone.value)]
    assert not [text for text in shown if KEY in text]


async def test_a_wrong_key_is_an_error_at_once_and_shown_nowhere(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with OpenAIServer(api_key="another") as server:
        engine = OpenAIEngine(url=server.url, api_key=KEY, **FAST)
        with pytest.raises(ConfigurationError, match="wrong key") as caught:
            await engine.start()
        await engine.close()
    assert not [text for text in [caplog.text, *chain(caught.value)] if KEY in text]


async def test_a_model_that_is_not_there_is_named():
    async with OpenAIServer() as server:
        engine = OpenAIEngine(url=server.url, served_model="llama", **FAST)
        with pytest.raises(ConfigurationError, match=r"'llama', it has: sim"):
            await engine.start()
        await engine.close()


def chain(error: BaseException | None) -> list[str]:
    """All that an error and those behind it show."""
    shown = []
    while error is not None:
        shown += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return shown


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_no_more_is_asked_for_than_the_context_has_room_for(server: OpenAIServer):
    engine = OpenAIEngine(url=server.url, context_limit=len(PROMPT) + 5, **FAST)
    await engine.start()
    deltas = await run(engine, SamplingParams(max_tokens=50, min_tokens=20, temperature=0.0, ignore_eos=True))
    assert (len(tokens(deltas)), deltas[-1].finish_reason) == (5, "length")
    await engine.close()
