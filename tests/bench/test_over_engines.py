"""What is sent to real servers and read from them; tests/engines has a run with one."""

from __future__ import annotations

import json

import pytest

from bench.peers.engine_sides import asked_of_cluster, completion, counts
from bench.peers.environment import UnavailableError
from bench.peers.over_engines import answering, tokens_of
from bench.peers.servers import command, flags
from bench.workloads.stdlib import Topic
from preble.testing import make_model


def test_options_become_arguments():
    assert flags({"page_size": 16, "enforce_eager": True, "dtype": "float32"}) == [
        "--page-size", "16", "--enforce-eager", "--dtype", "float32",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_publishes_its_kv_events_and_tells_what_was_cached(kind, tmp_path):
    words = command(kind, tmp_path, {"dtype": "float32"}, 1234, "ipc://events")
    assert words[words.index("--port") + 1] == "1234"
    assert json.loads(words[words.index("--kv-events-config") + 1])["endpoint"] == "ipc://events"
    assert {"vllm": "--enable-prompt-tokens-details", "sglang": "--enable-cache-report"}[kind] in words


def test_router_and_cluster_are_asked_for_the_same():
    head, body = completion("What?").split(b"\r\n\r\n")
    asked = json.loads(body)
    prompt, sampling = asked_of_cluster("What?")
    assert head.startswith(b"POST /v1/completions ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert (asked["prompt"], asked["max_tokens"], asked["ignore_eos"]) == (prompt, sampling.max_tokens, True)
    assert asked["temperature"] == sampling.temperature == 0.0


@pytest.mark.parametrize(("details", "cached"), [({"cached_tokens": 3}, 3), ({"cached_tokens": None}, 0), (None, 0)])
def test_counts_are_those_of_the_last_event(details, cached):
    last = {"choices": [], "usage": {"prompt_tokens": 5, "prompt_tokens_details": details}}
    stream = b'data: {"choices": [{"text": "a"}]}\n\ndata: ' + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"
    found = counts(stream)
    assert (found.prompt_tokens, found.cached_tokens) == (5, cached)


def test_tokens_of_prefixes_are_the_model_s(tmp_path):
    model = make_model(tmp_path, hidden=16, layers=1, heads=1, kv_heads=1, intermediate=16, vocab=512)
    once, twice = (tokens_of(model, [Topic("t", "import asyncio\n", ("?",))] * count) for count in (1, 2))
    assert twice == 2 * once > 0


class Waking:
    """Answers from the third time on."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, request: object) -> None:
        self.asked += 1
        if self.asked < 3:
            raise UnavailableError("status 503")


async def test_a_router_is_asked_until_it_answers(monkeypatch):
    monkeypatch.setattr("bench.peers.over_engines._SECONDS_BETWEEN_TRIES", 0.0)
    target = Waking()
    await answering(target, b"")
    assert target.asked == 3
    monkeypatch.setattr("bench.peers.over_engines._TRIES", 2)
    with pytest.raises(UnavailableError, match="503"):
        await answering(Waking(), b"")
