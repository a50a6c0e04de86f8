"""OpenAI's and Anthropic's own clients on a cluster in this process."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import openai
import pytest

from preble import ConfigurationError, PrebleCluster, SamplingParams, SyncCluster
from preble.client import doors

HELLO = [{"role": "user", "content": "hello"}]
ASKED = {"model": "any", "messages": HELLO, "max_tokens": 4, "temperature": 0}


@pytest.fixture
async def cluster():
    async with PrebleCluster(backend="sim", workers=2, processes=False) as cluster:
        yield cluster
        assert cluster.stats().in_flight == 0


async def test_openais_client_gets_what_the_cluster_generates(cluster):
    native = await cluster.generate(HELLO, SamplingParams(max_tokens=4, temperature=0))
    async with cluster.openai() as client:
        whole = await client.chat.completions.create(**ASKED)
        assert whole.choices[0].message.content == native.text
        assert whole.usage.model_extra["preble"]["worker"] in ("w0", "w1")
        stream = await client.chat.completions.create(**ASKED, stream=True)
        async with stream:
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == native.text


async def test_a_mistake_is_the_clients_own_error_after_one_attempt(cluster):
    async with cluster.openai() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**ASKED, extra_body={"temprature": 1})
    assert (caught.value.param, caught.value.code) == ("temprature", "invalid_value")


async def test_a_stream_that_is_left_cancels_its_request(cluster):
    async with cluster.openai() as client:
        stream = await client.chat.completions.create(**ASKED | {"max_tokens": 100_000}, stream=True)
        async with stream:
            await anext(stream)
    assert cluster.stats().in_flight == 0
    assert cluster.stats().counters.cancelled == 1


async def test_the_synchronous_client_is_for_other_threads(cluster):
    with cluster.openai_sync() as client:
        answer = await asyncio.to_thread(lambda: client.chat.completions.create(**ASKED))
        assert answer.usage.completion_tokens == 4


def test_a_cluster_without_a_loop_has_the_synchronous_client_and_a_server():
    with SyncCluster(backend="sim", workers=1, processes=False) as cluster:
        with cluster.openai_sync() as client:
            text = client.chat.completions.create(**ASKED).choices[0].message.content
        with cluster.serve_http() as url, openai.OpenAI(base_url=url, api_key="none") as client:
            assert client.chat.completions.create(**ASKED).choices[0].message.content == text


@pytest.mark.parametrize("module", ["httpx", "httpx2"])
async def test_a_client_of_either_library(cluster, module):
    async with cluster.httpx_client(module) as client:
        answer = (await client.post("/v1/chat/completions", json=ASKED)).json()
    assert answer["usage"]["completion_tokens"] == 4


def test_a_library_that_is_not_there_is_named():
    with pytest.raises(ConfigurationError, match="pip install nothing_of_that_name"):
        doors.http_client(None, "nothing_of_that_name")


def test_no_client_is_imported_before_it_is_asked_for():
    code = (
        "import preble.client, sys; print(*{'openai', 'httpx', 'httpx2', 'anthropic', 'starlette'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []
