"""The application around the protocols: names, tokens, health, metrics, who may ask, and errors of the cluster."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from preble import ConfigurationError, PrebleCluster
from preble.errors import (
    ContextLengthError,
    DeadlineExceededError,
    InvalidRequestError,
    NoWorkersError,
    OverloadedError,
    WorkerLostError,
)
from preble.serve import create_app
from preble.serve.errors import failure, headers
from preble.serve.guard import host_name
from preble.serve.sessions import HEADERS, session
from tests.serve.conftest import face_of

HELLO = [{"role": "user", "content": "hello"}]


async def test_tokens_there_and_back(face):
    told = await face.json("/tokenize", prompt="hello", return_token_strs=True)
    assert told["tokens"] == face.cluster.tokenizer.encode("hello")
    assert (told["count"], "".join(told["token_strs"])) == (5, "hello")
    assert (await face.json("/detokenize", tokens=told["tokens"]))["prompt"] == "hello"
    chat = await face.json("/tokenize", messages=HELLO)
    assert chat["tokens"] == face.cluster.tokenizer.apply_chat_template(HELLO)


async def test_template_kwargs_count_over_the_fields_of_tokenize(face):
    plain = await face.json("/tokenize", messages=HELLO)
    bare = await face.json("/tokenize", messages=HELLO, add_generation_prompt=False)
    same = await face.json("/tokenize", messages=HELLO, chat_template_kwargs={"add_generation_prompt": False})
    assert same["tokens"] == bare["tokens"] != plain["tokens"]


async def test_any_name_is_accepted_unless_the_model_has_names():
    async with PrebleCluster(backend="sim", workers=1, processes=False) as cluster:
        async with face_of(cluster) as face:
            assert [card["id"] for card in (await face.http.get("/v1/models")).json()["data"]] == ["sim"]
            assert (await face.json("/v1/completions", prompt="a", max_tokens=1, model="x"))["model"] == "x"
        async with face_of(cluster, served_model_name=["small", "tiny"]) as face:
            assert [card["id"] for card in (await face.http.get("/v1/models")).json()["data"]] == ["small", "tiny"]
            assert (await face.json("/v1/completions", prompt="a", max_tokens=1, model="tiny"))["model"] == "tiny"
            refused = await face.post("/v1/completions", prompt="a", model="x")
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
            assert (await face.http.get("/v1/models/x")).status_code == 404


async def test_health_is_that_of_the_workers(face):
    assert (await face.http.get("/health")).status_code == 200
    for worker in face.cluster.stats().workers:
        await face.cluster.drain_worker(worker.worker)
    told = await face.http.get("/health")
    assert (told.status_code, set(told.json()["workers"].values())) == (503, {"drained"})


async def test_metrics_count(face):
    await face.json("/v1/completions", prompt="a", max_tokens=1)
    lines = (await face.http.get("/metrics")).text.splitlines()
    assert "preble:finished_total 1" in lines
    assert any(line.startswith('preble:worker_state{worker="w0",state="serving"} 1') for line in lines)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic token"}, 401),
        ({"authorization": "Bearer token"}, 200),
        ({"authorization": "bearer token"}, 200),
        ({"x-api-key": "token"}, 200),
    ],
)
async def test_a_token_is_asked_for(sent, status):
    async with (
        PrebleCluster(backend="sim", workers=1, processes=False) as cluster,
        face_of(cluster, api_key="token") as face,
    ):
        assert (await face.http.get("/v1/models", headers=sent)).status_code == status
        assert (await face.http.get("/health", headers=sent)).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1:80", 200), ("localhost", 200), ("[::1]:9", 200), ("evil.example", 403), ("", 403)]
)
async def test_a_server_without_a_token_answers_to_its_own_names_only(face, host, status):
    assert (await face.http.get("/v1/models", headers={"host": host})).status_code == status


@pytest.mark.parametrize(
    ("header", "name"), [("a:1", "a"), ("a", "a"), ("[::1]:1", "[::1]"), ("[::1]", "[::1]"), ("", ""), ("[", "[")]
)
def test_the_name_in_a_host_header(header, name):
    assert host_name(header) == name


async def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not():
    async with (
        PrebleCluster(backend="sim", workers=1, processes=False) as cluster,
        face_of(cluster, max_body=100) as face,
    ):

        async def parts():
            for _ in range(3):
                yield b" " * 50

        for content in (b" " * 101, parts()):
            refused = await face.http.post("/v1/completions", content=content)
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_long")
        assert (await face.post("/v1/completions", prompt="a", max_tokens=1)).status_code == 200


async def test_paths_and_methods_that_are_not_there(face):
    assert (await face.http.get("/v2")).json()["error"]["code"] == "not_found"
    refused = await face.http.get("/v1/chat/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(ConfigurationError, match="did you mean 'api_key'"):
        create_app(PrebleCluster(backend="sim"), api_keys="x")


@pytest.mark.parametrize(
    ("error", "status", "code", "again"),
    [
        (ContextLengthError("long", field="prompt"), 400, "context_length_exceeded", "false"),
        (InvalidRequestError("wrong", field="n"), 400, "invalid_value", "false"),
        (OverloadedError("full", retry_after=0.25), 429, "overloaded", "true"),
        (NoWorkersError("none"), 503, "no_workers", "false"),
        (DeadlineExceededError("late"), 504, "deadline_exceeded", "false"),
        (WorkerLostError("gone"), 503, "worker_lost", "false"),
    ],
)
def test_an_error_of_the_cluster_over_http(error, status, code, again):
    told = failure(error)
    assert (told.status, told.code, headers(told)["x-should-retry"]) == (status, code, again)
    assert headers(told).get("retry-after-ms") == ("250" if again == "true" else None)


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event():
    """The worker ends in the step after the first request, and there is no other one."""
    options = {"time_scale": 1.0, "crash_at": 0.3}
    async with (
        PrebleCluster(backend="sim", workers=1, processes=False, engine_options=options, worker_wait=0.0) as cluster,
        face_of(cluster) as face,
    ):
        events = await face.events("/v1/completions", prompt="a", max_tokens=4000)
    assert "choices" in events[0]
    assert events[-1]["error"]["code"] in ("worker_lost", "no_workers")


@pytest.mark.parametrize("name", HEADERS)
def test_every_session_header_is_understood_before_the_body(name):
    assert session({name: "s"}, {"user": "u"}) == "s"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt_cache_key": "a", "user": "b"}, "a"),
        ({"metadata": {"session_id": "a"}, "user": "b"}, "a"),
        ({"session_params": {"session_id": "a"}}, "a"),
        ({"user": "b"}, "b"),
        ({"user": "", "metadata": None}, None),
        ({"user": "x" * 257}, None),
        ({"user": 7}, None),
    ],
)
def test_session_fields_in_their_order(fields, name):
    assert session({}, fields) == name


async def test_over_a_socket_and_its_end(face):
    async with face.cluster.serve_http() as url, httpx.AsyncClient() as client:
        body = {"messages": HELLO, "max_tokens": 2, "stream": True}
        async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
            assert (await response.aread()).endswith(b"data: [DONE]\n\n")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_ends_waits_for_requests_no_longer_than_its_grace(stream):
    """The answer would take hours; its client stays."""
    slow = {"time_scale": 1e6}
    async with PrebleCluster(backend="sim", workers=1, processes=False, engine_options=slow) as cluster:
        body = {"messages": HELLO, "max_tokens": 1000, "stream": stream}
        async with httpx.AsyncClient(timeout=120) as client, asyncio.timeout(120):
            async with cluster.serve_http(grace=1.0) as url:
                asked = asyncio.ensure_future(client.post(f"{url}/chat/completions", json=body))
                while not cluster.stats().in_flight:
                    await asyncio.sleep(0.001)
            while cluster.stats().in_flight:
                await asyncio.sleep(0.001)
            with pytest.raises(httpx.HTTPError):
                (await asked).raise_for_status()
        assert cluster.stats().counters.cancelled == 1


async def test_an_address_that_is_taken_is_an_oserror(face):
    async with face.cluster.serve_http() as url:
        with pytest.raises(OSError, match=rf"127.0.0.1:{httpx.URL(url).port}: .*in use"):
            async with face.cluster.serve_http(port=httpx.URL(url).port):
                pass
