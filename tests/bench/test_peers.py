"""The HTTP worker is what routers take for an engine; what is made of the figures. No router is needed."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from bench.micro.figures import Figures, turns
from bench.peers.answer import Answer
from bench.peers.attempts import attempted
from bench.peers.embedded import embedded, wire
from bench.peers.environment import UnavailableError
from bench.peers.http_client import Client, get
from bench.peers.http_worker import ABOUT, Worker, application
from bench.peers.letters import LETTERS_PER_TOKEN, VOCABULARY, to_text, to_tokens
from bench.peers.load import replay, summed_up, together
from bench.peers.over_http import OverHTTP, last_event
from bench.peers.processes import cpu_seconds, running
from bench.peers.sides import NO_ROUTER, OURS, SIDES
from bench.peers.table import added, document, key, note, notes, ratio, table
from preble.backends.sim import SimEngine
from preble.tokens import pack

PROMPT = pack(range(100, 164))
BLOCK = 16


@pytest.fixture
async def server():
    engine = SimEngine()
    app = application(Worker(engine, await engine.start()))
    async with TestServer(app) as running_server:
        yield running_server
    await engine.close()


@pytest.fixture
async def session(server):
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
        yield client


def body(tokens: bytes, max_tokens: int = 1, **more: object) -> dict[str, object]:
    return {"text": to_text(tokens), "sampling_params": {"max_new_tokens": max_tokens}} | more


async def events(session: aiohttp.ClientSession, request: dict[str, object]) -> list[str]:
    async with session.post("/generate", json=request | {"stream": True}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        return [part.removeprefix("data: ") for part in (await response.text()).split("\n\n") if part]


async def test_worker_says_what_routers_ask(session):
    for path in ABOUT:
        async with session.get(path) as response:
            about = await response.json()
            assert about["model_path"] == about["data"][0]["id"] == "sim"
            assert about["max_total_num_tokens"] == 200_000


async def test_worker_is_not_taken_for_another_engine(session):
    async with session.get("/version") as response:
        assert response.status == 404


async def test_worker_streams_the_text_so_far_token_by_token(session):
    *parts, done = await events(session, body(PROMPT, 3))
    assert done == "[DONE]"
    answers = [json.loads(part) for part in parts]
    texts = [answer["text"] for answer in answers]
    assert [len(text) for text in texts] == [LETTERS_PER_TOKEN * count for count in (1, 2, 3)]
    assert texts[2].startswith(texts[1])
    assert [answer["meta_info"]["completion_tokens"] for answer in answers] == [1, 2, 3]
    assert [answer["meta_info"]["finish_reason"] for answer in answers] == [None, None, {"type": "length"}]


async def test_worker_counts_what_its_cache_holds(session):
    first = json.loads((await events(session, body(PROMPT)))[-2])["meta_info"]
    again = json.loads((await events(session, body(PROMPT + pack([7] * BLOCK))))[-2])["meta_info"]
    assert (first["prompt_tokens"], first["cached_tokens"]) == (64, 0)
    assert (again["prompt_tokens"], again["cached_tokens"]) == (80, 64)


async def test_worker_takes_text_and_ids_alike_and_answers_in_one_piece_too(session):
    by_ids = {"input_ids": list(range(100, 164)), "sampling_params": {"max_new_tokens": 2}}
    streamed = json.loads((await events(session, body(PROMPT, 2)))[-2])
    async with session.post("/generate", json=by_ids) as response:
        whole = await response.json()
    assert whole["text"] == streamed["text"]
    assert whole["meta_info"]["prompt_tokens"] == 64
    assert whole["meta_info"]["cached_tokens"] == 64 - BLOCK  # the last block is computed for its logits


@pytest.mark.parametrize("request_body", [{"text": "hello"}, {"text": "abc"}, {}, {"text": 5}, {"input_ids": ["a"]}])
async def test_worker_refuses_what_is_no_prompt(session, request_body):
    async with session.post("/generate", json=request_body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["message"]


async def test_worker_does_not_hold_small_writes_back():
    engine, options = SimEngine(), []
    app = application(Worker(engine, await engine.start()))

    async def look(request, response):
        accepted = request.transport.get_extra_info("socket")
        options.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    app.on_response_prepare.append(look)
    async with TestServer(app) as running_server:
        assert await get(running_server.port, "/health")
    await engine.close()
    assert options
    assert all(options)


def test_letters_keep_token_ids_and_their_prefixes():
    tokens = pack([0, 1, 31_999, VOCABULARY - 1])
    assert to_tokens(to_text(tokens)) == tokens
    assert to_text(tokens) == "aaaaaaabhmpppppp"
    assert to_text(tokens).startswith(to_text(tokens[:8]))
    for text in ("abc", "abcq", "abc`", "äbcd"):
        with pytest.raises(ValueError, match=r"letters|ascii"):
            to_tokens(text)


async def test_client_reads_counts_and_times(server):
    target = OverHTTP([server.port], [], [])
    request = target.prepare(PROMPT, 2)
    first, second = await target.ask(request), await target.ask(request)
    assert (first.prompt_tokens, first.cached_tokens) == (64, 0)
    assert second.cached_tokens == 64 - BLOCK
    assert first.first <= first.end <= second.first <= second.end
    target.client.close()


async def test_client_keeps_its_connection():
    accepted = []

    async def answer(reader, writer):
        accepted.append(writer)
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as one:
        client = Client([one.sockets[0].getsockname()[1]])
        bodies = [(await client.send(b"GET / HTTP/1.1\r\n\r\n")).body for _ in range(2)]
        client.close()
    assert bodies == [b"ok", b"ok"]
    assert len(accepted) == 1


async def test_client_takes_ports_in_turn():
    seen: list[int] = []

    async def answer(reader, writer):
        seen.append(writer.get_extra_info("sockname")[1])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    servers = [await asyncio.start_server(answer, "127.0.0.1", 0) for _ in range(2)]
    ports = [one.sockets[0].getsockname()[1] for one in servers]
    client = Client(ports, quick_ack=False)
    for _ in range(4):
        response = await client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (response.status, response.body) == (200, b"ok")
    assert seen == ports * 2
    for one in servers:
        one.close()


async def test_a_refused_or_broken_request_is_reported_not_measured(server):
    target = OverHTTP([server.port], [], [])
    refused = target.prepare(PROMPT, 1).replace(b'"text"', b'"tixt"')
    with pytest.raises(UnavailableError, match="status 400"):
        await target.ask(refused)
    target.client.close()

    async def hang_up(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as broken:
        port = broken.sockets[0].getsockname()[1]
        with pytest.raises(UnavailableError, match="ended before"):
            await OverHTTP([port], [], []).ask(target.prepare(PROMPT, 1))
        assert await get(port, "/health") is None


def test_counts_come_from_the_last_event():
    stream = b'data: {"text":"","meta_info":{"prompt_tokens":5,"cached_tokens":1,"id":"x"}}\n\n'
    last = stream.replace(b":1,", b":4,")
    meta = last_event(stream + last + b"data: [DONE]\n\n")
    assert (meta.prompt_tokens, meta.cached_tokens) == (5, 4)


@pytest.mark.parametrize("opened", [lambda: embedded("e2", {}, 1, None), lambda: wire({}, 1, None)])
async def test_preble_and_its_wire_answer_as_http_does(opened, server):
    http = OverHTTP([server.port], [], [])
    expected = [await http.ask(http.prepare(PROMPT, 2)) for _ in range(2)]
    http.client.close()
    async with opened() as target:
        answers = [await target.ask(target.prepare(PROMPT, 2)) for _ in range(2)]
        assert len(target.workers) == 1
        assert cpu_seconds(target.workers) > 0
    for answer, other in zip(answers, expected, strict=True):
        assert (answer.prompt_tokens, answer.cached_tokens) == (other.prompt_tokens, other.cached_tokens)
        assert answer.first <= answer.end


class Echo:
    """Answers at once; notes how many were there together."""

    routers = workers = ()

    def __init__(self) -> None:
        self.open = self.most = 0
        self.asked: list[int] = []

    async def ask(self, request: int) -> Answer:
        self.asked.append(request)
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        now = time.perf_counter()
        return Answer(now, now, 100, 10 * request)


async def test_together_keeps_so_many_open_and_asks_each_once():
    target = Echo()
    measured = await together(target, range(20), 4)
    assert target.most == 4
    assert sorted(target.asked) == list(range(20))
    assert measured["client_and_router_cpu_us"] == measured["client_cpu_us"] + measured["router_cpu_us"]
    assert measured["requests_per_s"] > 0


async def test_replay_asks_each_once_and_counts_from_the_arrival_even_if_it_is_late():
    target, calls = Echo(), []
    late = [-5.0, -6.0, -7.0]
    measured = await replay(target, [3, 1, 2], late, lambda: calls.append(None))
    assert sorted(target.asked) == [1, 2, 3]
    assert len(calls) == 3
    assert measured["hit_ratio"] == pytest.approx(0.2)
    assert measured["ttft_mean_s"] >= 6.0
    assert measured["latency_mean_s"] >= 6.0


def test_times_count_from_arrival_and_hits_are_a_share_of_all_tokens():
    answers = [(Answer(1.5, 3.0, 100, 0), 1.0), (Answer(3.0, 5.0, 300, 200), 2.0)]
    summary = summed_up(answers)
    assert summary["hit_ratio"] == pytest.approx(0.5)
    assert summary["ttft_mean_s"] == pytest.approx(0.75)
    assert summary["ttft_p50_s"] == pytest.approx(0.75)
    assert summary["ttft_p99_s"] == pytest.approx(np.percentile([0.5, 1.0], 99))
    assert summary["latency_mean_s"] == pytest.approx(2.5)


async def test_cpu_time_is_that_of_a_process_and_all_below_it(tmp_path):
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint('burnt', flush=True)\ntime.sleep(600)"
    above = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])"
    log = tmp_path / "log"

    async def burnt() -> bool:
        return "burnt" in log.read_text()

    async with running([sys.executable, "-c", above], log, burnt) as pid:
        assert cpu_seconds([pid]) >= 0.18
    assert cpu_seconds([]) == 0


async def test_a_process_that_ends_early_is_unavailable_with_its_last_words(tmp_path):
    async def never() -> bool:
        return False

    command = [sys.executable, "-c", "raise SystemExit('no such policy')"]
    with pytest.raises(UnavailableError, match="status 1: no such policy"):
        async with running(command, tmp_path / "log", never):
            pass


def test_every_round_begins_with_another_side_and_has_all():
    order = list(turns("abc", 3))
    assert [side for number, side in order if number == 0] == ["a", "b", "c"]
    assert [side for number, side in order if number == 1] == ["a", "c", "b"]
    assert [side for number, side in order if number == 2] == ["c", "a", "b"]


async def test_what_is_unavailable_is_skipped_from_then_on_with_the_reason():
    skipped: dict[str, str] = {}

    async def fail() -> dict[str, float]:
        raise UnavailableError("not installable: no wheel")

    async def work() -> dict[str, float]:
        return {"metric": 1.0}

    assert await attempted("b", skipped, work) == {"metric": 1.0}
    assert await attempted("a", skipped, fail) == {}
    assert await attempted("a", skipped, work) == {}
    assert skipped == {"a": "not installable: no wheel"}


def rounds(*first: float) -> list[dict[str, float]]:
    return [{"first_p50_us": value, "client_cpu_us": 1.0, "taken_by_others": 0.02} for value in first]


def test_ratios_are_taken_within_a_round_and_additions_from_what_is_below():
    router, clusters = "smg cache_aware", added({OURS: rounds(100, 200)})
    assert "added_first_p50_us" not in clusters[OURS][0]
    measured = added({NO_ROUTER: rounds(100, 100), router: rounds(300, 500), OURS: rounds(100, 500)})
    assert [one["added_first_p50_us"] for one in measured[router]] == [200, 400]
    figures = Figures()
    note(figures, measured)
    assert figures.metrics[key(router, "first_p50_us")] == 400
    assert figures.metrics[ratio(router, "first_p50_us")] == pytest.approx(2.0)  # of 3 and 1; not 400 / 300
    assert ratio(OURS, "first_p50_us") not in figures.metrics
    assert ratio(router, "client_cpu_us") not in figures.metrics


def test_there_is_no_ratio_to_what_noise_made_negative_and_a_round_may_lack_a_metric():
    measured = added({NO_ROUTER: rounds(100, 100), "smg cache_aware": rounds(90, 150), OURS: rounds(50, 50)})
    for one in measured[OURS]:
        one["added_first_p50_us"] = 10.0
    measured["smg cache_aware"][0]["hit_ratio"] = measured[OURS][0]["hit_ratio"] = 0.5
    figures = Figures()
    note(figures, measured)
    assert figures.metrics[key("smg cache_aware", "added_first_p50_us")] == 20.0
    assert ratio("smg cache_aware", "added_first_p50_us") not in figures.metrics
    assert figures.metrics[ratio("smg cache_aware", "hit_ratio")] == 1.0


def test_table_has_a_row_for_each_side_and_the_reason_of_each_that_was_skipped():
    figures = Figures()
    note(figures, {side: rounds(100 * (number + 1)) for number, side in enumerate(SIDES) if "smg" not in side})
    page = document(
        "T", "How.", notes(figures, quick=True), table(figures, {"smg cache_aware": "not installable: no wheel"})
    )
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(SIDES) - 1
    assert "| preble e2 | 600 |" in page
    assert "| added" not in page  # nobody has such a figure
    assert f"| {NO_ROUTER} | 100 (0.17x) |" in page
    assert "smg cache_aware: skipped: not installable: no wheel" in page
    assert "--quick" in page
    assert "up to 2% of the machine" in page
