"""In-process clients: responses stream, and requests end, however the client or the application ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import asynccontextmanager

import httpx
import httpx2
import pytest

from preble import StateError, WrongLoopError
from preble.client import async_transport, sync_transport
from preble.client.exchange import Exchange, Request, StalledError

LIBRARIES = [httpx, httpx2]
PATIENCE = 120


class App:
    """An ASGI application whose steps the test allows one by one."""

    def __init__(self, parts: int = 3, *, fails: str = "", endless: bool = False) -> None:
        self.parts, self.fails, self.endless = parts, fails, endless
        self.may = asyncio.Semaphore(0)
        self.asked: list[tuple[str, bytes]] = []
        self.sent = 0
        self.ended = asyncio.Event()
        self.disconnected = False

    async def __call__(self, scope, receive, send) -> None:
        try:
            message = await receive()
            self.asked.append((scope["path"], message["body"]))
            if self.fails == "before":
                raise ValueError("no answer")
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
            while self.sent < self.parts or self.endless:
                await self.may.acquire()
                await send({"type": "http.response.body", "body": b"%d;" % self.sent, "more_body": True})
                self.sent += 1
                if self.fails == "within":
                    raise ValueError("no more")
            if self.fails != "without an end":
                await send({"type": "http.response.body"})
        except asyncio.CancelledError:
            self.disconnected = (await receive())["type"] == "http.disconnect"
            raise
        finally:
            self.ended.set()

    def allow(self, steps: int = 100) -> None:
        for _ in range(steps):
            self.may.release()


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__)
def library(request):
    return request.param


def client_of(library, app, **options):
    return library.AsyncClient(transport=async_transport(library, app), base_url="http://preble", **options)


async def within(wait):
    async with asyncio.timeout(PATIENCE):
        return await wait


async def test_a_response_is_there_before_its_end_and_parts_come_one_by_one(library):
    app = App()
    async with client_of(library, app) as client, client.stream("POST", "/x", content=b"hello") as response:
        assert (response.status_code, response.headers["x-a"]) == (200, "b")
        parts = response.aiter_bytes()
        for number in range(3):
            app.allow(1)
            assert await within(anext(parts)) == b"%d;" % number
            assert app.sent <= number + 1
        assert [part async for part in parts] == []
    assert app.asked == [("/x", b"hello")]


async def test_a_whole_response(library):
    app = App()
    app.allow()
    async with client_of(library, app) as client:
        assert (await client.get("/")).content == b"0;1;2;"


async def test_an_application_that_is_ahead_waits(library):
    app = App(endless=True)
    app.allow(1000)
    async with client_of(library, app) as client, client.stream("GET", "/") as response:
        parts = response.aiter_raw()
        await within(anext(parts))
        for _ in range(200):
            await asyncio.sleep(0)
        assert app.sent < 100


async def test_leaving_a_stream_ends_its_request(library):
    app = App(endless=True)
    async with client_of(library, app) as client:
        async with client.stream("GET", "/") as response:
            app.allow(1)
            await within(anext(response.aiter_raw()))
        assert app.ended.is_set()
        assert app.disconnected


@pytest.mark.parametrize("steps", [0, 1])
async def test_cancelling_a_request_ends_it(library, steps):
    app = App(endless=True)
    async with client_of(library, app) as client:
        asking = asyncio.ensure_future(client.get("/"))
        app.allow(steps)
        while not app.asked or app.sent < steps:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await within(app.ended.wait())


async def test_a_stream_that_is_forgotten_ends_its_request(library):
    app = App(endless=True)
    client = client_of(library, app)

    async def forget() -> None:
        response = await client.send(client.build_request("GET", "/"), stream=True)
        app.allow(1)
        await within(anext(aiter(response.stream)))

    await forget()
    async with asyncio.timeout(PATIENCE):
        while not app.ended.is_set():
            gc.collect()
            await asyncio.sleep(0)


async def test_the_read_timeout_is_the_clients_own_for_the_head_and_for_each_part(library):
    app = App(endless=True)
    async with client_of(library, app, timeout=0.05) as client:
        with pytest.raises(library.ReadTimeout):
            await client.get("/")
        await within(app.ended.wait())

    async def silent(scope, receive, send) -> None:
        await asyncio.Event().wait()

    async with client_of(library, silent, timeout=0.05) as client:
        with pytest.raises(library.ReadTimeout):
            await client.get("/")


@pytest.mark.parametrize("fails", ["within", "without an end"])
async def test_a_stream_ends_however_the_application_does(library, fails, caplog):
    app = App(fails=fails)
    app.allow()
    async with client_of(library, app) as client:
        response = await within(client.get("/"))
    assert response.content == (b"0;" if fails == "within" else b"0;1;2;")


async def test_an_application_that_fails_before_its_answer_is_a_500_with_a_body(library, caplog):
    async with client_of(library, App(fails="before")) as client:
        response = await within(client.get("/"))
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert response.headers["x-should-retry"] == "false"


async def test_a_response_that_nobody_reads_is_given_up():
    app = App(endless=True)
    app.allow(1000)
    exchange = Exchange(app, Request("GET", "/", b"", [], b""), stalled=0.02)
    await within(app.ended.wait())
    with pytest.raises(StalledError):
        await within(_all(exchange))


async def _all(exchange: Exchange) -> None:
    while await exchange.part() is not None:
        pass


@asynccontextmanager
async def threaded(library, app):
    transport = sync_transport(library, app, asyncio.get_running_loop())
    with library.Client(transport=transport, base_url="http://preble") as client:
        yield client


async def test_another_thread_streams(library):
    app = App()

    def read(client) -> list[bytes]:
        with client.stream("GET", "/") as response:
            app_loop.call_soon_threadsafe(app.allow)
            return list(response.iter_raw())

    app_loop = asyncio.get_running_loop()
    async with threaded(library, app) as client:
        assert b"".join(await within(asyncio.to_thread(read, client))) == b"0;1;2;"


async def test_another_thread_that_leaves_early_ends_its_request(library):
    app = App(endless=True)

    def read(client) -> None:
        with client.stream("GET", "/") as response:
            loop.call_soon_threadsafe(app.allow, 1)
            next(response.iter_raw())

    loop = asyncio.get_running_loop()
    async with threaded(library, app) as client:
        await within(asyncio.to_thread(read, client))
        assert app.ended.is_set()


async def test_a_stream_that_the_collector_closes_in_the_loops_thread_ends_its_request(library):
    app = App(endless=True)

    def begin(client):
        response = client.send(client.build_request("GET", "/"), stream=True)
        loop.call_soon_threadsafe(app.allow, 1)
        next(response.iter_raw())
        return response

    loop = asyncio.get_running_loop()
    async with threaded(library, app) as client:
        response = await within(asyncio.to_thread(begin, client))
        response.close()
        await within(app.ended.wait())


async def test_the_loops_own_thread_is_refused_since_it_would_wait_for_itself(library):
    async with threaded(library, App()) as client:
        with pytest.raises(WrongLoopError, match="to_thread"):
            client.get("/")


def test_a_loop_that_does_not_run_is_refused(library):
    loop = asyncio.new_event_loop()
    with library.Client(transport=sync_transport(library, App(), loop), base_url="http://preble") as client:
        with pytest.raises(StateError, match="does not run"):
            client.get("/")
        loop.close()
        with pytest.raises(StateError, match="does not run"):
            client.get("/")


def test_a_loop_that_ends_meanwhile_ends_the_wait(library):
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def silent(scope, receive, send) -> None:
        loop.call_soon(loop.stop)
        await asyncio.Event().wait()

    with (
        library.Client(
            transport=sync_transport(library, silent, loop), base_url="http://preble", timeout=None
        ) as client,
        pytest.raises(StateError, match="does not run"),
    ):
        client.get("/")
    thread.join(PATIENCE)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
