"""Bodies that nobody thought of: made from the types of the bodies, right ones and wrong ones. None is a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from preble import SamplingParams, SyncCluster
from preble.serve import sampling
from preble.serve.chat_body import ChatBody
from preble.serve.completions import CompletionBody
from preble.serve.messages.body import MessageBody
from preble.serve.responses.body import ResponseBody
from preble.serve.tokens import DetokenizeBody, TokenizeBody

BODIES: dict[str, type[msgspec.Struct]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/responses": ResponseBody,
    "/v1/messages": MessageBody,
    "/v1/messages/count_tokens": MessageBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
SAMPLED = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}
NO_PARAM = {"/v1/messages", "/v1/messages/count_tokens"}
"""Errors of Anthropic's protocol have no such field."""
MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"type": "string", "minLength": 1}},
    "required": ["role", "content"],
}
CHAT = {"messages": {"type": "array", "items": MESSAGE, "minItems": 1, "maxItems": 3}}
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 400}, "minItems": 1}
FEW = {"type": "integer", "minimum": 1, "maximum": 40}
NEEDED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": {"anyOf": [{"type": "string", "minLength": 1}, IDS]}},
    "/v1/responses": {"input": {"type": "string", "minLength": 1}},
    "/v1/messages": {**CHAT, "max_tokens": FEW},
    "/v1/messages/count_tokens": CHAT,
}
"""What the types do not say: without this most bodies would be refused for the same reason."""


def described() -> Any:
    """The endpoints as an OpenAPI document."""
    kinds = {*BODIES.values(), SamplingParams}
    _, types = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    chosen = {
        name: types["SamplingParams"]["properties"][name] for name in sampling.FIELDS - {"choice", "grammar", "regex"}
    }  # no engine here takes them
    paths = {}
    for path, kind in BODIES.items():
        body, needed = {**types[kind.__name__]}, NEEDED.get(path, {})
        body["properties"] = {**body["properties"], **(chosen if path in SAMPLED else {}), **needed}
        body["required"] = [*needed]
        content = {"application/json": {"schema": body}}
        answers = {"200": {"description": "the answer"}}
        paths[path] = {"post": {"requestBody": {"required": True, "content": content}, "responses": answers}}
    about = {"title": "preble", "version": "1"}
    document = {"openapi": "3.1.0", "info": about, "paths": paths, "components": {"schemas": types}}
    return schemathesis.openapi.from_dict(document)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[SyncCluster, httpx.Client]]:
    options = {"context_limit": 300}
    with (
        SyncCluster(backend="sim", workers=1, processes=False, engine_options=options) as cluster,
        cluster.serve_http() as url,
        httpx.Client(base_url=url.removesuffix("/v1"), timeout=120) as client,
    ):
        yield cluster, client


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize("path", BODIES)
def test_whatever_is_posted_is_answered_or_refused_and_harms_nobody(served, path, mode):
    cluster, client = served

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(case=described()[path]["POST"].as_strategy(mode))
    def post(case: Any) -> None:
        response = client.post(path, content=_encoded(case.body), headers={"content-type": "application/json"})
        assert response.status_code < 500, response.text
        if response.status_code == 400:
            error = response.json()["error"]
            assert error["message"]
            assert path in NO_PARAM or error["param"]
        elif response.headers["content-type"].startswith("text/event-stream"):
            assert '"internal_error"' not in response.text

    post()
    assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
    assert cluster.stats().in_flight == 0


def _encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else msgspec.json.encode(body, enc_hook=str)
