"""Over servers that run already: bodies go there as they are, and answers come back as they are."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from preble import PrebleCluster, SamplingParams, StateError
from preble.backends.openai.forward import Along, Forward
from preble.serve.listen import listening
from preble.serve.routing import FIRST_TEXT_ID, routing_ids, text_ids
from preble.tokens import unpack
from tests.serve.conftest import face_of

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
PATIENCE = 120


@asynccontextmanager
async def replicas(count=2, **options):
    """Servers of ours over `sim`, and their URLs."""
    async with AsyncExitStack() as stack:
        urls = []
        for _ in range(count):
            cluster = PrebleCluster(backend="sim", workers=1, processes=False, seed=1, engine_options=options or None)
            await stack.enter_async_context(cluster)
            urls.append(await stack.enter_async_context(cluster.serve_http(grace=1.0)))
        yield urls


@asynccontextmanager
async def gateway(urls, **options):
    async with PrebleCluster.connect(urls, seed=1, **options) as cluster, face_of(cluster) as face:
        yield face
        cluster.check()
        assert cluster.stats().in_flight == 0


class Odd:
    """A server of one's own: `answer(scope, body, send)` answers what is posted."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.hung_up = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        if scope["method"] == "GET":
            models = b'{"object":"list","data":[{"id":"odd","object":"model","max_model_len":4096}]}'
            await whole(send, 200 if scope["path"] in ("/health", "/v1/models") else 404, models)
            return
        if scope["path"] == "/tokenize":
            await whole(send, 404, b"{}")
            return
        if scope["path"] == "/v1/completions" and b'"prompt":[1]' in body:  # whether it knows token ids
            await whole(send, 200, b'{"choices":[{"index":0,"text":"a","token_ids":[1]}]}')
            return
        self.bodies.append(body)
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        answering = asyncio.ensure_future(self.answer(scope, body, send))
        listening = asyncio.ensure_future(receive())  # only the end of the connection comes now
        await asyncio.wait([answering, listening], return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if answering.done():
            await answering
        else:
            self.hung_up.set()
            answering.cancel()


async def whole(send, status, body, media_type=b"application/json", **headers):
    pairs = [(b"content-type", media_type), *((name.encode(), value) for name, value in headers.items())]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def odd(answer):
    return listening(Odd(answer), host="127.0.0.1", port=0, grace=1.0)


@pytest.mark.parametrize("body", [{}, {"stream": True, "stream_options": {"include_usage": True}}, {"logprobs": True}])
async def test_an_answer_is_the_servers_own(body):
    asked = {"model": "any", "messages": HELLO, "max_tokens": 5, "temperature": 0, **body}
    async with replicas(1) as urls, httpx.AsyncClient() as direct, gateway(urls) as face:
        own = await direct.post(f"{urls[0]}/chat/completions", json=asked)
        ours = await face.http.post(CHAT, json=asked)
        assert ours.status_code == 200
        assert ours.headers["content-type"] == own.headers["content-type"]
        assert _timeless(ours.text) == _timeless(own.text)
        counters = face.cluster.stats().counters
        assert (counters.finished, counters.output_tokens) == (1, 5)


def _timeless(text: str) -> list:
    """What two answers to the same request have in common: not ids, times and what was cached."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line and "[DONE]" not in line]
    documents = [json.loads(line) for line in lines]
    for document in documents:
        for name in ("id", "created"):
            document.pop(name)
        if document.get("usage"):
            document["usage"] = document["usage"]["completion_tokens"]
    return documents


async def test_what_the_server_refuses_is_its_own_answer():
    async with replicas(1) as urls, gateway(urls) as face:
        refused = await face.post(CHAT, messages=HELLO, temprature=1)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temprature")
        assert (await face.post("/v1/embeddings", input="a")).status_code == 404
        assert face.cluster.stats().counters.failed == 0


async def test_every_byte_comes_back_whatever_it_is_and_our_headers_stay_here():
    strange = b'event: \xff\ndata: {"a":\r\n: ping\n\ndata: [DONE]\n\nrest'

    async def answer(scope, body, send):
        await whole(send, 200, strange, b"text/event-stream", **{"x-of-the-server": b"yes"})

    server = Odd(answer)
    raw = b'{"messages": [], "stream": true,  "new_field": {"\\u0061": 1.0}}'
    async with listening(server, host="127.0.0.1", port=0, grace=1.0) as url, gateway([url], api_key="theirs") as face:
        sent = {"authorization": "Bearer ours", "x-session-id": "s", "traceparent": "00-1"}
        response = await face.http.post(CHAT, content=raw, headers=sent)
    assert (response.content, response.headers["x-of-the-server"]) == (strange, "yes")
    assert server.bodies == [raw]
    told = server.headers[0]
    assert (told["authorization"], told["traceparent"], told["x-session-id"]) == ("Bearer theirs", "00-1", "s")


async def test_the_same_prompt_goes_to_the_server_that_has_it():
    async with replicas(2) as urls, gateway(urls, policy="longest-prefix") as face:
        for prompt in ["a" * 4000, "b" * 4000, "c" * 4000, "d" * 4000] * 3:
            await face.json(CHAT, messages=[{"role": "user", "content": prompt}], max_tokens=1)
        stats = face.cluster.stats()
        assert stats.counters.cached_tokens > stats.counters.prompt_tokens * 0.6
        assert all(worker.finished for worker in stats.workers)


async def test_another_server_is_tried_before_the_first_byte():
    async def fails(scope, body, send):
        await whole(send, 500, b"{}")

    async with odd(fails) as bad, replicas(1) as urls, gateway([bad, *urls]) as face:
        for number in range(6):
            answer = await face.json("/v1/completions", prompt=f"{number}", max_tokens=2)
            assert answer["usage"]["completion_tokens"] == 2
        assert face.cluster.stats().counters.retried >= 1


async def test_after_the_first_byte_an_event_says_what_broke():
    async def breaks(scope, body, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b'data: {"choices": []}\n\n', "more_body": True})
        raise ConnectionError("gone")

    async with odd(breaks) as url, gateway([url]) as face:
        response = await face.post(CHAT, messages=HELLO, stream=True)
    first, error, done = [line for line in response.text.split("\n\n") if line]
    assert (first, done) == ('data: {"choices": []}', "data: [DONE]")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] in ("engine_error", "worker_lost")


async def test_if_no_server_can_it_is_an_error_of_ours():
    async def busy(scope, body, send):
        await whole(send, 503, b'{"error": "busy"}')

    async with odd(busy) as url, gateway([url], worker_wait=0.0) as face:
        refused = await face.post(CHAT, messages=HELLO)
    assert refused.status_code in (429, 503)
    assert "error" in refused.json()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_is_gone_for_the_server_too(stream):
    begun = asyncio.Event()

    async def never(scope, body, send):
        begun.set()
        await asyncio.Event().wait()

    server = Odd(never)
    async with listening(server, host="127.0.0.1", port=0, grace=1.0) as url, PrebleCluster.connect([url]) as cluster:
        async with cluster.httpx_client("httpx") as client:
            asking = asyncio.ensure_future(client.post(CHAT, json={"messages": HELLO, "stream": stream}))
            async with asyncio.timeout(PATIENCE):
                await begun.wait()
                asking.cancel()
                await server.hung_up.wait()
        assert cluster.stats().in_flight == 0


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_where_events_have_names_that_of_what_broke_has_one_too(path):
    async def breaks(scope, body, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b'event: a\ndata: {"in the midd', "more_body": True})
        raise ConnectionError("gone")

    async with odd(breaks) as url, gateway([url]) as face:
        response = await face.post(path, messages=HELLO, stream=True)
    begun, error = [event for event in response.text.split("\n\n") if event]
    assert begun == 'event: a\ndata: {"in the midd'
    assert error.startswith('event: error\ndata: {"error"')


async def test_any_path_and_any_bytes_are_for_the_server_to_understand():
    sound, packed = b"--x\r\n\xff\x00--x--", b"\x1f\x8b packed"
    asked = []

    async def answer(scope, body, send):
        asked.append((scope["path"], scope["query_string"]))
        await whole(send, 200, packed, **{"connection": b"x-hop", "x-hop": b"1"})

    server = Odd(answer)
    async with listening(server, host="127.0.0.1", port=0, grace=1.0) as url, gateway([url]) as face:
        sent = {"accept-encoding": "br", "connection": "x-mine", "x-mine": "1", "content-type": "multipart/form-data"}
        response = await face.http.post("/v1/audio/transcriptions?beta=1", content=sound, headers=sent)
    assert (asked, server.bodies) == ([("/v1/audio/transcriptions", b"beta=1")], [sound])
    assert server.headers[0]["accept-encoding"] == "identity"
    assert "x-mine" not in server.headers[0]
    assert (response.content, "x-hop" in response.headers) == (packed, False)


async def test_a_server_that_refuses_our_key_is_no_matter_of_the_client():
    async def refuses(scope, body, send):
        await whole(send, 401, b'{"error": {"message": "wrong key: theirs"}}')

    async with odd(refuses) as bad, replicas(1) as urls, gateway([bad, *urls], api_key="theirs") as face:
        for number in range(4):
            assert (await face.post("/v1/completions", prompt=f"{number}", max_tokens=1)).status_code == 200
    async with odd(refuses) as bad, gateway([bad], api_key="theirs", worker_wait=0.0) as face:
        refused = await face.post(CHAT, messages=HELLO)
        assert (refused.status_code, "theirs" in refused.text) == (500, False)


async def test_a_prompt_that_seems_too_long_is_for_the_server_to_refuse():
    async def answer(scope, body, send):
        await whole(send, 200, b"{}")

    async with odd(answer) as url, gateway([url]) as face:
        assert (await face.post(CHAT, messages=[{"role": "user", "content": "word " * 9000}])).status_code == 200


async def test_prompts_are_known_by_the_ids_of_a_server_where_it_tells_them():
    async def answer(scope, body, send):
        await whole(send, 404, b"{}")

    async with replicas(1) as urls, gateway(urls) as face:
        assert face.cluster.stats().prompt_ids is None
        await face.post(CHAT, messages=HELLO, max_tokens=1)
        assert face.cluster.stats().prompt_ids == "server"
        ids, _ = await routing_ids({"messages": HELLO}, None, face.cluster.tokenized)
        assert list(unpack(ids)) == (await face.json("/tokenize", messages=HELLO))["tokens"]
        await face.post("/v1/messages", messages=HELLO, system="be brief", max_tokens=1)
        assert face.cluster.stats().prompt_ids == "text"
    async with odd(answer) as url, gateway([url]) as face:
        await face.post(CHAT, messages=HELLO)
        assert face.cluster.stats().prompt_ids == "text"


async def test_only_servers_that_run_already_take_a_request_as_it_came(face):
    sent = Forward(CHAT, b"{}", {}, streams=False)
    with pytest.raises(StateError, match="run already"):
        await anext(face.cluster.forward(sent, text_ids("a"), SamplingParams()))


@pytest.mark.parametrize("fields", [{"messages": 7}, {"messages": {"a": 1}}, {"prompt": {}}, {"input": 1.5}, {}])
async def test_what_is_no_prompt_is_for_the_server_to_refuse(fields):
    ids, source = await routing_ids(fields, None)
    assert (len(ids) > 0, source) == (True, "text")


def test_equal_beginnings_of_texts_have_equal_ids():
    one, two = unpack(text_ids("the same beginning, one")), unpack(text_ids("the same beginning, two"))
    assert one[:5] == two[:5]
    assert one != two
    assert min(one) >= FIRST_TEXT_ID
    assert len(unpack(text_ids(""))) == 1


async def test_pictures_are_known_by_their_content():
    def chat(picture: str) -> dict:
        url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture * 300}"}}
        return {"messages": [{"role": "user", "content": [url, {"type": "text", "text": "what is it?"}]}]}

    (one, source), (two, _), (again, _) = [await routing_ids(chat(letter), None) for letter in "aba"]
    assert (source, one == again, one == two) == ("text", True, False)
    assert len(one) < 4 * 100  # by the hash of the content, not by the content


async def test_a_model_folder_gives_the_ids_of_its_tokenizer(face):
    tokenizer = face.cluster.tokenizer
    ids, source = await routing_ids({"messages": HELLO}, tokenizer)
    assert (list(unpack(ids)), source) == (tokenizer.apply_chat_template(HELLO), "tokenizer")
    ids, source = await routing_ids({"prompt": [7, 8]}, None)
    assert (list(unpack(ids)), source) == ([7, 8], "tokenizer")


TOLD = {
    "chat": [{"usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}}],
    "responses": [
        {"response": {"usage": {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}}}}
    ],
    "messages": [
        {"message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 4}}},
        {"usage": {"output_tokens": 3}},
    ],
}


@pytest.mark.parametrize("protocol", TOLD)
def test_usage_is_read_along_in_the_words_of_each_protocol(protocol):
    events = list(map(json.dumps, TOLD[protocol]))
    along = Along(streams=True)
    assert along.read("".join(f"data: {event}\n\n" for event in events).encode()) == len(events)
    last = along.last()
    assert (last.prompt_tokens, last.output_tokens, last.cached_tokens) == (9, 3, 4)
