"""A cluster of replicas that run already: real HTTP, servers in this process over the `sim` engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("aiohttp", reason="the openai engine needs aiohttp")

from preble import (
    ClosedError,
    ConfigurationError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    ModelError,
    NoWorkersError,
    OverloadedError,
    PrebleCluster,
    PrebleError,
    SamplingParams,
    WorkerStartError,
)
from preble.backends import Delta, EngineRequest
from preble.backends.openai.engine import OpenAIEngine
from preble.core.cost import PRESETS
from preble.dispatch import breaker, health
from preble.errors import UnreachableError
from preble.tokens import pack, unpack
from preble.transport.schema import Step, Submit
from preble.workers import replicas as module
from preble.workers.pool import Listener
from tests.adapter_engine import AdapterEngine
from tests.cluster.cases import GREEDY, SLOW, eventually, prompt, serving
from tests.openai_server import OpenAIServer

QUICK = {
    "backoff": 0.001,
    "backoff_limit": 0.01,
    "health_interval": 0.02,
    "health_timeout": 0.5,
    "connect_timeout": 1.0,
    "vocab_size": 32_000,
}
SIM = {"vocab_size": 32_000, "kv_tokens": 20_000}
LONG = SamplingParams(max_tokens=60, temperature=0.0)
KEY = "sk-very-secret-key"


class Pair:
    """Two servers and a cluster of them."""

    def __init__(self, servers: list[OpenAIServer], cluster: PrebleCluster) -> None:
        self.servers = servers
        self.cluster = cluster

    def server(self, worker: str) -> OpenAIServer:
        return next(server for server in self.servers if server.url == worker)

    def workers(self) -> set[str]:
        return set(serving(self.cluster))


def described(*servers: OpenAIServer, options: dict[str, Any] | None = None, **more: Any) -> PrebleCluster:
    return PrebleCluster.connect(
        [server.url for server in servers], engine_options={**QUICK, **(options or {})}, **more
    )


async def connected(*servers: OpenAIServer, **options: Any) -> PrebleCluster:
    cluster = described(*servers, **options)
    await cluster.start()
    return cluster


@pytest_asyncio.fixture
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    options = getattr(request, "param", {})
    async with OpenAIServer("vllm", **SIM, **options) as one, OpenAIServer("sglang", **SIM, **options) as two:
        cluster = await connected(one, two)
        yield Pair([one, two], cluster)
        await eventually(lambda: cluster.stats().in_flight == 0)
        cluster.check()
        await cluster.close()


slow = pytest.mark.parametrize("pair", [SLOW], indirect=True)


async def test_both_kinds_serve_the_same_tokens_and_tell_what_was_cached(pair: Pair):
    outs = await pair.cluster.generate_many([prompt(number) for number in range(12)], GREEDY)
    assert {out.worker for out in outs} == {server.url for server in pair.servers}
    again = await pair.cluster.generate_many([prompt(number) for number in range(12)], GREEDY)
    for first, second in zip(outs, again, strict=True):
        assert second.token_ids == first.token_ids
        assert second.worker == first.worker
        assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 48)
        assert pair.cluster.explain(second.id).predicted_cached_tokens == 48


async def test_the_next_turn_goes_where_the_conversation_is(pair: Pair):
    first = await pair.cluster.generate(prompt(2), SamplingParams(max_tokens=32, temperature=0.0))
    turn = await pair.cluster.generate([*prompt(2), *first.token_ids, 5, 6, 7], GREEDY)
    assert turn.worker == first.worker
    assert turn.usage.cached_tokens == 80


async def test_a_stream_yields_what_generate_returns(pair: Pair):
    chunks = [chunk async for chunk in pair.cluster.stream(prompt(4), GREEDY)]
    whole = await pair.cluster.generate(prompt(4), GREEDY)
    assert sum((chunk.token_ids for chunk in chunks), ()) == whole.token_ids
    assert chunks[-1].usage.output_tokens == 8


@slow
async def test_a_dead_replica_s_requests_go_on_elsewhere_and_it_comes_back(pair: Pair):
    cluster, streamed, workers = pair.cluster, [], []
    async for chunk in cluster.stream(prompt(1), LONG):
        streamed.extend(chunk.token_ids)
        workers.append(chunk.worker)
        if len(streamed) >= 10 and len(set(workers)) == 1:
            dead = pair.server(chunk.worker)
            await dead.stop()
    assert len(streamed) == 60
    assert len(set(workers)) == 2
    assert tuple(streamed) == (await cluster.generate(prompt(1), LONG)).token_ids
    assert cluster.stats().counters.retried == 1
    assert pair.workers() == {workers[-1]}
    await dead.start()
    await eventually(lambda: len(pair.workers()) == 2)
    outs = await cluster.generate_many([prompt(number) for number in range(20, 32)], GREEDY)
    assert {out.worker for out in outs} == {server.url for server in pair.servers}


@slow
async def test_a_replica_that_hangs_is_lost(pair: Pair):
    workers: list[str] = []
    async for chunk in pair.cluster.stream(prompt(1), SamplingParams(max_tokens=1000)):
        workers.append(chunk.worker)
        hung = pair.server(workers[0])
        hung.healthy.clear()
        hung.flowing.clear()
        if chunk.worker != workers[0]:
            break
    assert pair.workers() == {workers[-1]} != {workers[0]}
    hung.healthy.set()
    await eventually(lambda: len(pair.workers()) == 2)


@pytest.mark.parametrize("ill", ["late", "503"])
async def test_a_replica_whose_tokens_flow_is_alive_whatever_it_says_of_its_health(ill: str):
    async with OpenAIServer(**SIM, **SLOW) as server:
        cluster = await connected(server, options={"health_timeout": 0.05, "health_interval": 0.1})
        stream = cluster.stream(prompt(1), SamplingParams(max_tokens=1000))
        await anext(stream)
        server.healthy.clear() if ill == "late" else setattr(server, "status", 503)
        before = server.checks
        while server.checks < before + 3 * module.PATIENCE:
            await anext(stream)
        assert cluster.stats().counters.retried == 0
        await stream.aclose()
        await eventually(lambda: not serving(cluster))
        server.healthy.set()
        await cluster.close()


async def test_a_replica_that_says_that_it_is_ill_is_lost(pair: Pair):
    pair.servers[0].status = 503
    await eventually(lambda: pair.workers() == {pair.servers[1].url})


async def test_a_broken_stream_is_mended_elsewhere_and_at_last_where_it_was(pair: Pair):
    for server in pair.servers:
        server.cuts.append(3)
    sampling = SamplingParams(max_tokens=12, temperature=0.0, prompt_logprobs=1)
    out = await pair.cluster.generate(prompt(1), sampling)
    assert [len(server.bodies) for server in pair.servers] in ([1, 2], [2, 1])
    whole = await pair.cluster.generate(prompt(1), sampling)
    assert out.token_ids == whole.token_ids
    assert out.prompt_logprobs == whole.prompt_logprobs
    assert len(out.prompt_logprobs or ()) == 64
    assert pair.cluster.stats().counters.retried == 2
    assert len(pair.workers()) == 2


async def test_one_that_breaks_every_stream_costs_no_request(pair: Pair):
    pair.servers[0].cuts.extend([2] * 1000)
    outs = await pair.cluster.generate_many([prompt(number) for number in range(40)], GREEDY)
    pair.servers[0].cuts.clear()
    again = await pair.cluster.generate_many([prompt(number) for number in range(40)], GREEDY)
    assert [out.token_ids for out in outs] == [out.token_ids for out in again]


@pytest.mark.parametrize(("status", "retry_after"), [(500, {}), (404, {}), (503, {}), (429, {"Retry-After": "60"})])
async def test_one_that_refuses_everything_at_once_costs_no_request(
    pair: Pair, status: int, retry_after: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 60.0)  # so that it is not tried again before the test ends
    monkeypatch.setattr(health, "FULL_PAUSE", 60.0)
    pair.servers[0].answers.extend([(status, retry_after, "no")] * 1000)
    outs = await pair.cluster.generate_many([prompt(number) for number in range(40)], GREEDY, concurrency=8)
    assert {out.worker for out in outs} == {pair.servers[1].url}
    assert len(pair.servers[0].bodies) < 20, "it looks idle, but does not get most of them"


async def test_when_all_are_gone_requests_end_at_once_if_they_are_not_to_wait():
    async with OpenAIServer(**SIM, **SLOW) as server:
        cluster = await connected(server, options={"health_interval": 3600.0}, worker_wait=0.0)
        task = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await eventually(lambda: server.engine.load().used_tokens > 70)
        await server.stop()
        with pytest.raises(UnreachableError) as caught:
            await task
        assert caught.value.worker == server.url
        await eventually(lambda: not serving(cluster))
        with pytest.raises(NoWorkersError):
            await cluster.generate(prompt(1), GREEDY)
        await server.start()
        await eventually(lambda: bool(serving(cluster)))
        assert (await cluster.generate(prompt(1), GREEDY)).token_ids
        await cluster.close()


async def test_a_request_waits_for_its_only_replica_and_goes_on_there():
    async with OpenAIServer(**SIM, **SLOW) as server, described(server) as cluster:
        whole = await cluster.generate(prompt(1), LONG)
        task = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await eventually(lambda: server.engine.load().used_tokens > 70)
        await server.stop()
        await eventually(lambda: not serving(cluster))
        await server.start()
        assert (await task).token_ids == whole.token_ids


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidRequestError), (401, ConfigurationError), (429, OverloadedError), (500, EngineError)],
)
async def test_errors_keep_their_type_and_say_where(pair: Pair, status: int, error: type[Exception]):
    for server in pair.servers:
        server.answers.extend([(status, {"Retry-After": "3"}, "this is why")] * 4)
    async with described(*pair.servers, worker_wait=0.0) as cluster:
        with pytest.raises(error, match="this is why") as caught:
            await cluster.generate(prompt(1), GREEDY)
    assert caught.value.worker in pair.workers()
    assert caught.value.request_id == "r1"
    if status == 429:
        assert caught.value.retry_after == 3.0


@slow
async def test_cancelling_ends_the_request_on_the_server(pair: Pair):
    task = asyncio.create_task(pair.cluster.generate(prompt(1), LONG))
    await eventually(lambda: sum(server.engine.load().running for server in pair.servers) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: sum(server.engine.load().running for server in pair.servers) == 0)


async def test_a_replica_gets_every_field_of_a_request():
    engine, asked, said = AdapterEngine(), [], asyncio.Queue()
    generate = engine.generate

    def recording(request: EngineRequest) -> AsyncIterator[Delta]:
        asked.append(request)
        return generate(request)

    engine.generate, engine.options = recording, SimpleNamespace(health_interval=60.0)
    pool = module.ReplicaPool(["http://127.0.0.1:1"], make_engine=lambda **_: engine)
    listener = Listener(
        on_step=lambda _, step: said.put_nowait(step),
        on_failed=pytest.fail,
        on_lost=pytest.fail,
        on_found=pytest.fail,
        on_stopping=pytest.fail,
    )
    (name,) = await pool.start(listener, 5.0)
    request = EngineRequest(1, pack([3]), SamplingParams(max_tokens=1), -2, "salt", 60.0, "sql")
    pool.send(name, Submit(request))
    step: Step = await asyncio.wait_for(said.get(), 5.0)
    await pool.stop(5.0)
    assert asked == [request]
    assert step.deltas[0][1].tokens == pack(list(b"s"))


class Heard:
    """What a pool of these URLs tells its listener, and the pool. Checks take place only when there is a reason."""

    def __init__(self, *urls: str, **options: Any) -> None:
        self.tokens: list[int] = []
        self.failed: list[PrebleError] = []
        self.lost: list[str] = []
        self.found: list[str] = []
        self.wrong: list[str] = []  # what raises when it is told next
        self.pool = module.ReplicaPool(
            urls, make_engine=lambda **own: OpenAIEngine(**{**QUICK, "health_interval": 3600.0, **options, **own})
        )

    async def __aenter__(self) -> Heard:
        await self.pool.start(
            Listener(
                on_step=self._on_step,
                on_failed=lambda _, __, error: self.failed.append(error),
                on_lost=lambda worker, _: self._on("lost", worker),
                on_found=lambda worker, _: self._on("found", worker),
                on_stopping=pytest.fail,
            ),
            5.0,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.stop(0.0)

    def ask(self, worker: str, max_tokens: int = 8) -> None:
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        self.pool.send(worker, Submit(EngineRequest(1, pack(prompt(1)), sampling)))

    def _on(self, kind: str, worker: str) -> None:
        getattr(self, kind).append(worker)
        if kind in self.wrong:
            self.wrong.remove(kind)
            raise LookupError(f"{kind} is not understood")

    def _on_step(self, worker: str, step: Step) -> None:
        self.tokens += [token for _, delta in step.deltas for token in unpack(delta.tokens)]


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidRequestError), (401, ConfigurationError), (404, ConfigurationError), (429, OverloadedError),
     (500, EngineError), (502, UnreachableError), (503, OverloadedError)],
)  # fmt: skip
async def test_the_pool_tells_each_error_once_and_tries_nothing_again(status: int, error: type[PrebleError]):
    async with OpenAIServer(**SIM) as server, Heard(server.url) as heard:
        server.answers.append((status, {"Retry-After": "3"}, "this is why"))
        heard.ask(server.url)
        await eventually(lambda: bool(heard.failed))
        assert [type(each) for each in heard.failed] == [error]
        assert "this is why" in str(heard.failed[0])
        assert heard.failed[0].retry_after == (3.0 if error is OverloadedError else None)
        assert (len(server.bodies), heard.lost) == (1, [])


async def test_a_broken_stream_lets_the_pool_look_at_once_whether_the_server_is_there():
    async with OpenAIServer(**SIM) as server, Heard(server.url) as heard:
        server.cuts.append(3)
        before = server.checks
        heard.ask(server.url)
        await eventually(lambda: server.checks > before)
        assert [type(error) for error in heard.failed] == [UnreachableError]
        got = len(heard.tokens)
        assert 0 < got < 8
        heard.ask(server.url)
        await eventually(lambda: len(heard.tokens) == got + 8)
        assert heard.lost == []


async def test_a_server_that_refuses_connections_is_lost_at_once_and_used_again_when_it_answers():
    async with OpenAIServer(**SIM) as server, Heard(server.url) as heard:
        await server.stop()
        heard.ask(server.url)
        await eventually(lambda: heard.lost == [server.url])
        assert heard.pool.awaits(server.url)
        assert [error.refused for error in heard.failed] == [True]
        await server.start()
        await eventually(lambda: heard.found == [server.url])
        heard.ask(server.url)
        await eventually(lambda: len(heard.tokens) == 8)


async def test_a_server_that_takes_no_more_connections_may_still_end_what_it_has(monkeypatch: pytest.MonkeyPatch):
    async def refused(self: OpenAIEngine) -> None:
        asked.append(self)
        error = UnreachableError("nobody listens")
        error.refused = True
        raise error

    asked: list[OpenAIEngine] = []
    async with OpenAIServer(**SIM, **SLOW) as server, Heard(server.url, health_interval=1.0) as heard:
        heard.ask(server.url, 160)
        await eventually(lambda: bool(heard.tokens))
        monkeypatch.setattr(OpenAIEngine, "ping", refused)
        await eventually(lambda: len(asked) >= 2)
        assert heard.lost == []
        await eventually(lambda: len(heard.tokens) == 160)
        await eventually(lambda: heard.lost == [server.url])


@slow
async def test_load_is_what_the_servers_tell(pair: Pair):
    task = asyncio.create_task(pair.cluster.generate(prompt(1), LONG))
    await eventually(lambda: sum(worker.used_tokens for worker in pair.cluster.stats().workers) >= 64)
    await task


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_load_is_told_while_health_takes_its_time(kind: str):
    async with OpenAIServer(kind, **SIM, **SLOW) as server:
        cluster = await connected(server, options={"health_timeout": 3600.0})
        server.healthy.clear()
        task = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await eventually(lambda: cluster.stats().workers[0].used_tokens >= 64)
        await task
        await cluster.close()


async def test_a_request_counts_as_waiting_until_its_first_token_only():
    """vLLM tells what was cached at the end: until then nothing must be moved that runs."""
    async with OpenAIServer("vllm", **SIM, **SLOW) as server:
        cluster = await connected(server)
        stream = cluster.stream(prompt(1), LONG)
        await anext(stream)
        assert cluster.scheduler.fleet.waiting[0] == 0
        cluster.scheduler.check()
        await stream.aclose()
        await cluster.close()


async def test_a_late_count_does_not_unlearn_what_was_computed():
    async with OpenAIServer("vllm", **SIM) as server:
        cluster = await connected(server)
        await cluster.generate(prompt(1), GREEDY)
        await server.engine.reset_cache()
        out = await cluster.generate(prompt(1), GREEDY)
        assert (out.usage.cached_tokens, cluster.explain(out.id).predicted_cached_tokens) == (0, 48)
        out = await cluster.generate(prompt(1), GREEDY)
        assert (out.usage.cached_tokens, cluster.explain(out.id).predicted_cached_tokens) == (48, 48)
        await cluster.close()


async def test_resetting_caches_reaches_servers_and_scheduler(pair: Pair):
    await pair.cluster.generate(prompt(1), GREEDY)
    await pair.cluster.reset_cache()
    out = await pair.cluster.generate(prompt(1), GREEDY)
    assert out.usage.cached_tokens == pair.cluster.explain(out.id).predicted_cached_tokens == 0


async def test_replicas_join_and_leave(pair: Pair):
    async with OpenAIServer("vllm", **SIM) as third:
        assert await pair.cluster.add_worker(third.url + "/v1/") == third.url
        with pytest.raises(ConfigurationError, match="already"):
            await pair.cluster.add_worker(third.url)
        with pytest.raises(ConfigurationError, match="url"):
            await pair.cluster.add_worker()
        with pytest.raises(ConfigurationError, match="devices"):
            await pair.cluster.add_worker("http://127.0.0.1:9", devices=[0])
        for server in pair.servers:
            await pair.cluster.drain_worker(server.url)
            await pair.cluster.remove_worker(server.url)
        assert (await pair.cluster.generate(prompt(1), GREEDY)).worker == third.url
        assert pair.cluster.worker_pids() == {}


async def test_closing_ends_open_requests_and_tasks():
    async with OpenAIServer(**SIM, **SLOW) as server:
        before = asyncio.all_tasks()
        cluster = await connected(server)
        task = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await eventually(lambda: server.engine.load().running == 1)
        await cluster.close()
        with pytest.raises(ClosedError):
            await task
        await eventually(lambda: server.engine.load().running == 0)
        await eventually(lambda: {task for task in asyncio.all_tasks() if "preble" in task.get_name()} <= before)


@pytest.mark.parametrize("healthy", [True, False])
async def test_closing_ends_the_start_of_one_more(healthy: bool):
    async with OpenAIServer(**SIM) as server, OpenAIServer(**SIM) as late:
        late.healthy.clear()
        cluster = await connected(server, start_timeout=3600.0)
        adding = asyncio.create_task(cluster.add_worker(late.url))
        await eventually(lambda: bool(late.connections))
        closing = asyncio.create_task(cluster.close())
        await asyncio.sleep(0)
        if healthy:
            late.healthy.set()
        await closing
        with pytest.raises(ClosedError):
            async with asyncio.timeout(10):
                await adding
        assert not [task for task in asyncio.all_tasks() if late.url in task.get_name()]
        late.healthy.set()


async def test_a_replica_that_is_being_added_is_not_added_twice(pair: Pair):
    async with OpenAIServer(**SIM) as third:
        third.healthy.clear()
        adding = asyncio.create_task(pair.cluster.add_worker(third.url))
        await eventually(lambda: bool(third.connections))
        with pytest.raises(ConfigurationError, match="already"):
            await pair.cluster.add_worker(third.url)
        third.healthy.set()
        assert await adding == third.url


async def test_a_replica_that_cannot_be_added_can_be_tried_again():
    async with (
        OpenAIServer(**SIM) as one,
        OpenAIServer(**SIM) as two,
        described(one, start_timeout=1.0) as cluster,
    ):
        two.healthy.clear()
        with pytest.raises(WorkerStartError, match="not healthy within"):
            await cluster.add_worker(two.url)
        two.healthy.set()
        assert await cluster.add_worker(two.url) == two.url


async def test_a_replica_comes_back_as_it_was(pair: Pair):
    one, two = pair.servers
    async with OpenAIServer(**SIM) as third:
        await pair.cluster.add_worker(third.url, namespaces=["x"])
        await pair.cluster.drain_worker(two.url)
        for server in (two, third):
            await server.stop()
        await eventually(lambda: pair.workers() == {one.url})
        for server in (two, third):
            await server.start()
        await eventually(lambda: len(pair.workers()) == 3)
        outs = await pair.cluster.generate_many([prompt(number) for number in range(12)], GREEDY)
        assert {out.worker for out in outs} == {one.url}, "one is for a namespace, and one was drained"


async def test_a_prompt_goes_to_replicas_whose_context_it_fits(pair: Pair):
    async with OpenAIServer(**{**SIM, "context_limit": 600}) as small:
        await pair.cluster.add_worker(small.url)
        outs = [await pair.cluster.generate(prompt(number, 1000), GREEDY) for number in range(6)]
        assert {out.worker for out in outs} == {server.url for server in pair.servers}
        with pytest.raises(ContextLengthError, match="20000"):
            await pair.cluster.generate(prompt(1, 20_000), GREEDY)
        await pair.cluster.remove_worker(small.url)


async def test_a_removed_replica_is_not_heard_any_more():
    async with (
        OpenAIServer(**SIM, **SLOW) as one,
        OpenAIServer(**SIM, **SLOW) as two,
        described(one, two, close_grace=3600.0) as cluster,
    ):
        running = asyncio.create_task(cluster.generate(prompt(1), LONG))
        await eventually(lambda: cluster.stats().in_flight == 1)
        (busy,) = (worker.worker for worker in cluster.stats().workers if worker.requests)
        await cluster.remove_worker(busy)
        assert not running.done(), "its requests go on elsewhere: there is nothing to wait for"
        assert busy not in serving(cluster)
        assert (await running).worker != busy


async def test_a_lost_replica_can_be_removed(pair: Pair):
    gone = pair.servers[0]
    await gone.stop()
    await eventually(lambda: gone.url not in pair.workers())
    await pair.cluster.remove_worker(gone.url)
    await gone.start()
    assert await pair.cluster.add_worker(gone.url) == gone.url
    with pytest.raises(ConfigurationError, match="not here"):
        await pair.cluster.remove_worker("http://nowhere")


async def test_it_starts_with_the_replicas_that_are_there_and_the_others_join(caplog: pytest.LogCaptureFixture):
    async with OpenAIServer(**SIM) as one, OpenAIServer(**SIM) as two:
        await two.stop()
        cluster = await connected(one, two)
        (missing,) = [worker for worker in cluster.stats().workers if worker.worker == two.url]
        assert (missing.status, "Cannot connect" in missing.reason) == ("lost", True)
        assert f"beginning without {two.url}" in caplog.text
        assert (await cluster.generate(prompt(1), GREEDY)).worker == one.url
        await two.start()
        await eventually(lambda: len(serving(cluster)) == 2)
        assert f"{two.url} is there" in caplog.text
        assert "is back" not in caplog.text
        outs = await cluster.generate_many([prompt(number) for number in range(12)], GREEDY)
        assert {out.worker for out in outs} == {one.url, two.url}
        cluster.check()
        await cluster.close()


async def test_a_replica_that_never_came_can_be_removed_and_added():
    async with OpenAIServer(**SIM) as one, OpenAIServer(**SIM) as two:
        await two.stop()
        async with described(one, two) as cluster:
            with pytest.raises(ConfigurationError, match="already"):
                await cluster.add_worker(two.url)
            await cluster.remove_worker(two.url)
            assert [worker.worker for worker in cluster.stats().workers] == [one.url]
            await two.start()
            assert await cluster.add_worker(two.url) == two.url


@pytest.mark.parametrize("least", [1, 2])
async def test_replicas_that_are_not_there_are_named_with_the_reason(least: int):
    async with OpenAIServer() as there, OpenAIServer() as ill, OpenAIServer() as odd:
        ill.status = 503
        odd.models = {"data": [{"id": "sim", "max_model_len": -5}]}
        servers = [ill, odd] if least == 1 else [there, ill, odd]
        with pytest.raises(WorkerStartError, match=r"not healthy within \d[\d.]* s: ") as caught:
            await described(*servers, start_timeout=2.0, min_replicas=least).start()
    assert caught.value.worker == ill.url
    assert f"{ill.url}: HTTP 503" in str(caught.value)
    assert f"{odd.url}: " in str(caught.value)
    assert "-5" in str(caught.value)
    assert there.url not in str(caught.value)
    assert ("1 of 3 are healthy" in str(caught.value)) == (least == 2)


async def test_a_replica_that_refuses_does_not_keep_the_others_from_beginning(caplog: pytest.LogCaptureFixture):
    async with OpenAIServer(**SIM) as one, OpenAIServer(api_key=KEY, **SIM) as locked, OpenAIServer(**SIM) as odd:
        odd.models = {"object": "list"}
        async with described(locked, one, odd) as cluster:
            assert (await cluster.generate(prompt(1), GREEDY)).worker == one.url
        with pytest.raises(ConfigurationError, match="wrong key"):
            await described(locked, one, min_replicas=2).start()
        one.healthy.clear()
        with pytest.raises(WorkerStartError, match=f"{locked.url}: HTTP 401: wrong key"):
            await described(one, locked, start_timeout=2.0).start()
        one.healthy.set()
    assert f"beginning without {locked.url}, which is tried again: HTTP 401: wrong key" in caplog.text
    assert f"beginning without {odd.url}, which is tried again: " in caplog.text


@pytest.mark.parametrize("wrong", ["lost", "found"])
async def test_a_replica_is_looked_after_also_if_telling_of_it_goes_wrong(caplog: pytest.LogCaptureFixture, wrong: str):
    async with OpenAIServer(**SIM) as server, Heard(server.url, health_interval=0.02) as heard:
        heard.wrong.append(wrong)
        await server.stop()
        await eventually(lambda: bool(heard.lost))
        await server.start()
        await eventually(lambda: bool(heard.found))
        await server.stop()
        await eventually(lambda: len(heard.lost) == 2)
        await server.start()
        await eventually(lambda: len(heard.found) == 2)
    assert f"{wrong} is not understood" in caplog.text


async def test_a_server_that_says_nothing_is_named():
    async with OpenAIServer() as hung:
        hung.healthy.clear()
        with pytest.raises(WorkerStartError, match=f"{hung.url}: no answer"):
            await described(hung, start_timeout=0.1).start()
        hung.healthy.set()


async def test_a_model_folder_that_is_none_is_looked_at_before_any_server(tmp_path: Path):
    for folder, match in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "without tokenizer.json")):
        with pytest.raises(ModelError, match=match):
            PrebleCluster.connect(["http://127.0.0.1:9"], model=folder)


async def test_a_replica_that_comes_back_as_another_model_is_not_used(caplog: pytest.LogCaptureFixture, pair: Pair):
    one, two = pair.servers
    await two.stop()
    await eventually(lambda: pair.workers() == {one.url})
    two.models = {"data": [{"id": "another", "owned_by": "sglang", "max_model_len": 2048}]}
    await two.start()
    await eventually(lambda: two.checks > 3)
    assert pair.workers() == {one.url}
    assert caplog.text.count("it serves 'another'") == 1
    two.models = None
    await eventually(lambda: len(pair.workers()) == 2)


async def test_a_key_is_sent_to_all_and_shown_nowhere(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with OpenAIServer(api_key=KEY, **SIM) as server:
        cluster = described(server, api_key=KEY, options={"health_interval": 3600.0}, worker_wait=0.0)
        async with cluster:
            await cluster.generate(prompt(1), GREEDY)
            await server.stop()
            with pytest.raises(UnreachableError) as caught:
                await cluster.generate(prompt(1), GREEDY)
            await eventually(lambda: not serving(cluster))
            shown = [caplog.text, repr(cluster), str(caught.value), repr(cluster.stats()), repr(cluster.__dict__)]
        assert "is lost" in caplog.text
    assert not [text for text in shown if KEY in text]


async def test_a_wrong_key_is_an_error_at_the_start():
    async with OpenAIServer(api_key=KEY) as server:
        with pytest.raises(ConfigurationError, match="401"):
            await PrebleCluster.connect([server.url], api_key="wrong", engine_options=QUICK).start()


@pytest.mark.parametrize(
    ("urls", "options", "match"),
    [
        ([], {}, "urls"),
        ("http://a", {}, "urls"),
        (["http://a", "http://a/v1"], {}, "twice"),
        (["nowhere"], {}, "url"),
        (["http://a"], {"kv_events": ["tcp://a:1", "tcp://b:1"]}, "kv_events"),
        (["http://a"], {"min_replicas": 2}, "min_replicas: must be an integer from 1 to 1, not 2"),
        (["http://a"], {"min_replicas": 0}, "min_replicas"),
        (["http://a"], {"min_replicas": "all"}, "min_replicas"),
        (["http://a"], {"polcy": "e2"}, "polcy: unknown option, did you mean 'policy'"),
        (["http://a"], {"workers": 3}, "workers: is for clusters that start workers"),
    ],
)
def test_a_wrong_description_is_named(urls: Any, options: Any, match: str):
    with pytest.raises(ConfigurationError, match=match):
        PrebleCluster.connect(urls, **options)


async def test_a_wrong_engine_option_is_named():
    with pytest.raises(ConfigurationError, match="unknown option 'kv_tokenz', did you mean 'kv_tokens'"):
        await PrebleCluster.connect(["http://127.0.0.1:9"], engine_options={"kv_tokenz": 3}).start()


async def test_workers_of_ours_take_no_url():
    async with PrebleCluster(backend="sim", workers=1) as cluster:
        with pytest.raises(ConfigurationError, match="url"):
            await cluster.add_worker("http://a")


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_cluster_infers_what_the_steps_of_replicas_take(kind: str):
    options = {**SIM, "kv_tokens": 200_000, "cost": "mistral-7b-a100", "time_scale": 0.2}
    preset, true = (PRESETS[name].coefficients() for name in ("llama-3-70b-a100-tp2", "mistral-7b-a100"))
    async with OpenAIServer(kind, **options) as server:
        cluster = await connected(server, cost="llama-3-70b-a100-tp2")
        for first in range(0, 80, 4):
            await asyncio.gather(*(cluster.generate(prompt(first + i, 400), GREEDY) for i in range(4)))
        prices = cluster.scheduler.prices(server.url)
        cluster.scheduler.check()
        await cluster.close()
    assert 0.1 * true.decode(4, 2000) < prices.decode(4, 2000) < 0.5 * preset.decode(4, 2000)
    assert 0.1 * true.prefill(1000, 1000) < prices.prefill(1000, 1000) < 0.5 * preset.prefill(1000, 1000)
