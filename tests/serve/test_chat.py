"""Chat completions over a cluster: what is asked, what comes back, whole and in events."""

from __future__ import annotations

import asyncio
import json

import pytest

from preble import PrebleCluster, SamplingParams
from preble.serve import create_app
from tests.serve.conftest import face_of

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


async def test_an_answer_is_what_the_cluster_generates(face):
    native = await face.cluster.generate(HELLO, SamplingParams(max_tokens=6, temperature=0))
    body = await face.json(PATH, messages=HELLO, max_tokens=6, temperature=0, model="any")
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": native.text}
    assert (choice["finish_reason"], body["object"], body["model"]) == ("length", "chat.completion", "any")
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (native.usage.prompt_tokens, 6)
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6


async def test_events_add_up_to_the_whole_answer(face):
    asked = {"messages": HELLO, "max_tokens": 6, "temperature": 0}
    whole = await face.json(PATH, **asked)
    events = await face.events(PATH, **asked, stream_options={"include_usage": True})
    *pieces, last = events
    deltas = [event["choices"][0]["delta"] for event in pieces]
    assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert [delta["role"] for delta in deltas if "role" in delta] == ["assistant"]
    assert [event["choices"][0]["finish_reason"] for event in pieces][-1] == "length"
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 6)
    assert len({event["id"] for event in events}) == 1


async def test_without_include_usage_no_event_has_usage(face):
    events = await face.events(PATH, messages=HELLO, max_tokens=2)
    assert not any("usage" in event for event in events)
    assert all(event["choices"] for event in events)


async def test_usage_says_where_the_request_went_and_what_was_cached(face):
    long = [{"role": "user", "content": "word " * 100}]
    await face.json(PATH, messages=long, max_tokens=2)
    usage = (await face.json(PATH, messages=long, max_tokens=2))["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached > 100
    told = usage["preble"]
    assert (told["cached_tokens"], told["predicted_cached_tokens"], told["reason"]) == (cached, cached, "exploit")
    assert told["worker"] in {worker.worker for worker in face.cluster.stats().workers}
    assert told["queue_time"] >= 0


async def test_samples_are_choices(face):
    body = await face.json(PATH, messages=HELLO, max_tokens=4, n=3, seed=5)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
    assert body["usage"]["completion_tokens"] == 12
    events = await face.events(PATH, messages=HELLO, max_tokens=4, n=3, seed=5)
    for choice in body["choices"]:
        deltas = [e["choices"][0] for e in events if e["choices"][0]["index"] == choice["index"]]
        assert "".join(each["delta"].get("content", "") for each in deltas) == choice["message"]["content"]


async def test_log_probabilities_have_text_and_bytes(face):
    asked = {"messages": HELLO, "max_tokens": 3, "logprobs": True, "top_logprobs": 2, "temperature": 0}
    (choice,) = (await face.json(PATH, **asked))["choices"]
    tokens = choice["logprobs"]["content"]
    assert "".join(bytes(token["bytes"]).decode() for token in tokens) == choice["message"]["content"]
    assert [len(token["top_logprobs"]) for token in tokens] == [2, 2, 2]
    events = await face.events(PATH, **asked)
    assert [t for event in events for t in event["choices"][0]["logprobs"]["content"]] == tokens


async def test_token_ids_of_prompt_and_answer_are_returned_if_asked(face):
    body = await face.json(PATH, messages=HELLO, max_tokens=3, temperature=0, return_token_ids=True)
    native = await face.cluster.generate(body["prompt_token_ids"], SamplingParams(max_tokens=3, temperature=0))
    assert tuple(body["choices"][0]["token_ids"]) == native.token_ids
    assert body["prompt_token_ids"] == face.cluster.tokenizer.apply_chat_template(HELLO)


async def test_a_template_sees_the_tools_unless_none_may_be_called(face):
    counts = [
        (await face.json(PATH, messages=HELLO, max_tokens=1, **given))["usage"]["prompt_tokens"]
        for given in ({}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "none"})
    ]
    assert counts[0] == counts[2] < counts[1]


async def test_stop_strings_and_biases_reach_the_engine(face):
    first = (await face.json(PATH, messages=HELLO, max_tokens=8, temperature=0))["choices"][0]["message"]["content"]
    word = first.split()[2]
    (choice,) = (await face.json(PATH, messages=HELLO, max_tokens=8, temperature=0, stop=[word]))["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", word)
    assert choice["message"]["content"] == first[: first.index(word)]
    refused = await face.post(PATH, messages=HELLO, logit_bias={"many": 1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logit_bias")


async def test_a_session_named_by_a_header_or_a_field_is_the_clusters(tmp_path):
    log = tmp_path / "log.jsonl"
    async with (
        PrebleCluster(backend="sim", workers=2, processes=False, decision_log=log) as cluster,
        face_of(cluster) as face,
    ):
        await face.json(PATH, messages=HELLO, max_tokens=1, prompt_cache_key="from the body")
        sent = {"x-session-id": "from a header"}
        body = {"messages": HELLO, "max_tokens": 1, "user": "nobody"}
        assert (await face.http.post(PATH, json=body, headers=sent)).status_code == 200
    assert [name in log.read_text() for name in ("from the body", "from a header", "nobody")] == [True, True, False]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_ends_its_request(stream):
    """An exchange over bare ASGI: the client hangs up when the request is on its way."""
    slow = {"cost": "mistral-7b-a6000", "time_scale": 1.0}
    async with PrebleCluster(backend="sim", workers=1, processes=False, engine_options=slow) as cluster:
        hung_up = asyncio.Event()
        messages = [{"type": "http.request", "body": json.dumps({"messages": HELLO, "stream": stream}).encode()}]

        async def receive():
            if messages:
                return messages.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": PATH, "headers": [(b"host", b"preble")], "query_string": b""}
        exchange = asyncio.ensure_future(create_app(cluster)(scope, receive, send))
        async with asyncio.timeout(120):
            while not cluster.stats().in_flight:
                await asyncio.sleep(0.001)
            hung_up.set()
            await exchange
        assert cluster.stats().in_flight == 0
        assert cluster.stats().counters.cancelled == 1


async def test_an_error_says_that_asking_again_is_in_vain(face):
    refused = await face.post(PATH, messages=HELLO, n=0)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert refused.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"\xff", b"{" * 5000])
async def test_a_body_that_is_no_object_is_a_400(face, raw):
    refused = await face.http.post(PATH, content=raw)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "body")
