"""Bodies that are wrong: each is a 4xx with the field's name, none is a 500, and none harms the next request."""

from __future__ import annotations

import json
from typing import Any

from preble import PrebleCluster
from tests.serve.conftest import Face, face_of

HELLO = [{"role": "user", "content": "hello"}]
CHAT, TEXT, TOKENS, IDS = "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": HELLO, "max_tokens": 2, **fields}


def text(**fields: Any) -> dict[str, Any]:
    return {"prompt": "a", "max_tokens": 2, **fields}


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {}, "messages"),
    (CHAT, chat(messages=None), "messages"),
    (CHAT, chat(messages=[]), "messages"),
    (CHAT, chat(messages="hello"), "messages"),
    (CHAT, chat(messages=[1]), "messages[0]"),
    (CHAT, chat(messages=[{"content": "x"}]), "messages"),
    (CHAT, chat(messages=[{"role": "user", "content": 7}]), "messages"),
    (CHAT, chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "messages"),
    (CHAT, chat(messages=[{"role": "user", "content": "\ud800"}]), "body"),
    (CHAT, chat(temprature=1), "temprature"),
    (CHAT, chat(temperature="hot"), "temperature"),
    (CHAT, chat(temperature=-1), "temperature"),
    (CHAT, chat(temperature=True), "temperature"),
    (CHAT, chat(temperature=1e300), "temperature"),
    (CHAT, chat(top_p=0), "top_p"),
    (CHAT, chat(top_p=2), "top_p"),
    (CHAT, chat(top_k=1.5), "top_k"),
    (CHAT, chat(min_p=2), "min_p"),
    (CHAT, chat(presence_penalty=3), "presence_penalty"),
    (CHAT, chat(frequency_penalty=-3), "frequency_penalty"),
    (CHAT, chat(repetition_penalty=0), "repetition_penalty"),
    (CHAT, chat(n=0), "n"),
    (CHAT, chat(n=1000), "n"),
    (CHAT, chat(n="2"), "n"),
    (CHAT, chat(max_tokens=0), "max_tokens"),
    (CHAT, chat(max_tokens=1.5), "max_tokens"),
    (CHAT, chat(max_tokens=1 << 60), "max_tokens"),
    (CHAT, chat(max_completion_tokens=-1), "max_completion_tokens"),
    (CHAT, chat(min_tokens=3), "min_tokens"),
    (CHAT, chat(seed="x"), "seed"),
    (CHAT, chat(seed=1 << 70), "seed"),
    (CHAT, chat(stop=[""]), "stop"),
    (CHAT, chat(stop=[1]), "stop"),
    (CHAT, chat(stop=["x"] * 100), "stop"),
    (CHAT, chat(stop_token_ids=["x"]), "stop_token_ids"),
    (CHAT, chat(logit_bias=[1]), "logit_bias"),
    (CHAT, chat(logit_bias={"many": 1}), "logit_bias"),
    (CHAT, chat(logit_bias={"5": 1000}), "logit_bias"),
    (CHAT, chat(logit_bias={"99999999": 1}), "logit_bias"),
    (CHAT, chat(logprobs=3), "logprobs"),
    (CHAT, chat(top_logprobs=2), "top_logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (CHAT, chat(stream="yes"), "stream"),
    (CHAT, chat(stream_options={"include_usage": True}), "stream_options"),
    (CHAT, chat(stream=True, stream_options={"usage": True}), "stream_options.usage"),
    (CHAT, chat(tools="f"), "tools"),
    (CHAT, chat(tools=[{"type": "function"}]), "tools[0].function"),
    (CHAT, chat(tools=[{"type": "web_search", "function": {"name": "f"}}]), "tools[0].type"),
    (CHAT, chat(tools=[TOOL], tool_choice=7), "tool_choice"),
    (CHAT, chat(tools=[TOOL], tool_choice="sometimes"), "tool_choice"),
    (CHAT, chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice"),
    (CHAT, chat(response_format={"type": "xml"}), "response_format.type"),
    (CHAT, chat(response_format="json"), "response_format"),
    (CHAT, chat(response_format={"type": "json_object"}), "response_format"),
    (CHAT, chat(tools=[TOOL], tool_choice="required"), "tool_choice"),
    (CHAT, chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}), "tool_choice"),
    (CHAT, chat(priority=1 << 40), "priority"),
    (CHAT, chat(cache_salt=""), "cache_salt"),
    (CHAT, chat(cache_salt="x" * 300), "cache_salt"),
    (CHAT, chat(store=True), "store"),
    (CHAT, chat(service_tier="gold"), "service_tier"),
    (CHAT, chat(modalities=["audio"]), "modalities[0]"),
    (CHAT, chat(chat_template_kwargs=[]), "chat_template_kwargs"),
    (CHAT, chat(chat_template_kwargs={"messages": []}), "chat_template_kwargs"),
    (CHAT, chat(chat_template_kwargs={"tools": []}), "chat_template_kwargs"),
    (CHAT, chat(chat_template_kwargs={"self": 1}), "chat_template_kwargs"),
    (CHAT, chat(chat_template_kwargs={"messages": []}, return_token_ids=True), "chat_template_kwargs"),
    (CHAT, chat(chat_template_kwargs={"tokenize": False}, return_token_ids=True), "chat_template_kwargs"),
    (CHAT, chat(functions=[]), "functions"),
    (CHAT, chat(prompt="a"), "prompt"),
    (CHAT, chat(json_schema={}), "json_schema"),
    (CHAT, chat(lora="a"), "lora"),
    (CHAT, chat(tenant="a"), "tenant"),
    (CHAT, chat(model=7), "model"),
    (TEXT, {}, "prompt"),
    (TEXT, text(prompt=None), "prompt"),
    (TEXT, text(prompt=""), "prompt"),
    (TEXT, text(prompt=[]), "prompt"),
    (TEXT, text(prompt=[[]]), "prompt"),
    (TEXT, text(prompt=["a", 1]), "prompt"),
    (TEXT, text(prompt=[-1]), "prompt"),
    (TEXT, text(prompt=[1 << 40]), "prompt"),
    (TEXT, text(prompt=["a"] * 2000), "prompt"),
    (TEXT, text(prompt={"text": "a"}), "prompt"),
    (TEXT, text(prompt=[-1], echo=True), "prompt"),
    (TEXT, text(prompt=[1 << 40], echo=True), "prompt"),
    (TEXT, text(prompt=[[1], [-5]], echo=True, max_tokens=0), "prompt"),
    (TEXT, text(suffix="b"), "suffix"),
    (TEXT, text(prompt_logprobs=1), "prompt_logprobs"),
    (TEXT, text(best_of=3), "best_of"),
    (TEXT, text(max_tokens=0), "max_tokens"),
    (TEXT, text(logprobs=21), "logprobs"),
    (TEXT, text(logprobs=True), "logprobs"),
    (TEXT, text(echo=True, logprobs=1, stream=True), "stream"),
    (TOKENS, {}, "prompt"),
    (TOKENS, {"prompt": "a", "messages": HELLO}, "prompt"),
    (TOKENS, {"prompt": 7}, "prompt"),
    (TOKENS, {"messages": HELLO, "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
    (TOKENS, {"messages": HELLO, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    (TOKENS, {"messages": HELLO, "chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
    (IDS, {"tokens": ["a"]}, "tokens[0]"),
    (IDS, {"tokens": [-1]}, "tokens"),
    (IDS, {}, "tokens"),
]


async def test_each_is_a_4xx_with_the_fields_name_and_the_next_request_is_served():
    found = []
    async with PrebleCluster(backend="sim", workers=1, processes=False) as cluster, face_of(cluster) as face:
        for path, body, field in WRONG:
            status, param = await _refused(face, path, body)
            if not (400 <= status < 500 and param == field):
                found.append((path, body, field, status, param))
            answer = await face.post(CHAT, **chat(max_tokens=1))
            assert answer.status_code == 200, (path, body)
        assert cluster.stats().in_flight == 0
    assert not found, "\n".join(map(str, found))
    assert len(WRONG) >= 60


async def _refused(face: Face, path: str, body: dict[str, Any]) -> tuple[int, str | None]:
    response = await face.http.post(path, content=json.dumps(body))  # which writes half a character too
    error = response.json().get("error") or {}
    return response.status_code, error.get("param")
