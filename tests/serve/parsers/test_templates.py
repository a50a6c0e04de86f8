"""Calls as a chat template writes them, token by token, read again; and the guide's parser."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble import SyncCluster
from preble.client import http_client
from preble.serve.parsers import tool_format
from preble.testing import Script
from tests.serve.parsers.test_parsers import CALLS, calls_of, said_by

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "http.md"
ASKED = [{"role": "user", "content": "How is the weather?"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def tokenizer():
    with SyncCluster(backend="sim", workers=1, processes=False) as cluster:
        yield cluster.tokenizer


@pytest.fixture
def own_parser(monkeypatch, tmp_path):
    """The guide's parser, as a module that can be imported."""
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S) if "LineCalls" in each)
    (tmp_path / "calls_of_the_guide.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return "calls_of_the_guide:LineCalls"


@given(calls=CALLS.filter(bool), text=st.text("Ia <{é😀", max_size=6))
def test_calls_that_a_template_renders_are_read_from_their_tokens(tokenizer, calls, text):
    said = {
        "role": "assistant",
        "content": text,
        "tool_calls": [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls],
    }
    options = {"tools": TOOLS, "add_generation_prompt": False}
    before = tokenizer.apply_chat_template(ASKED, tools=TOOLS)
    ids = tokenizer.apply_chat_template([*ASKED, said], **options)
    assert ids[: len(before)] == before
    decode = codecs.getincrementaldecoder("utf-8")().decode
    pieces = [decode(tokenizer.token_bytes(id)) for id in ids[len(before) :]]
    pieces = [piece for piece in pieces if piece not in tokenizer.special_tokens]
    read = said_by(tool_format("auto", tokenizer.chat_template).make(), pieces)
    assert [(name, json.loads(arguments)) for name, arguments in calls_of(read)] == calls
    assert read.text.strip() == text.strip()


async def test_a_parser_of_ones_own_reads_answers(own_parser):
    script = Script()
    script.reply("I look.\nCALL wea", 'ther {"city": "Paris"}\nBye')
    async with script.cluster(workers=1) as cluster, http_client(cluster.asgi(tool_parser=own_parser)) as client:
        body = {"messages": ASKED, "tools": TOOLS}
        message = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Paris"})
    assert message["content"] == "I look.\nBye"


def test_a_parser_of_ones_own_names_the_special_tokens_that_it_reads(own_parser):
    assert tool_format(own_parser, "").special == {"<|call_end|>"}
