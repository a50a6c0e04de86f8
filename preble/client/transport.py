"""Transports for `httpx` and `httpx2`, made by the module that is given: neither is imported here."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

from preble.client.exchange import App, Exchange, Request, StalledError
from preble.errors import StateError, WrongLoopError

_Result = TypeVar("_Result")
_LOOK = 1.0
"""Seconds between looks whether the loop that another thread waits for still runs."""


def async_transport(module: ModuleType, app: App) -> Any:
    """Return a transport for `module.AsyncClient`. Its requests run as tasks of the loop that makes them."""
    return _asynchronous(module)(app)


def sync_transport(module: ModuleType, app: App, loop: asyncio.AbstractEventLoop) -> Any:
    """Return a transport for `module.Client`, whose requests run in `loop` while other threads wait.

    A request from the loop's own thread raises WrongLoopError, since it would wait for itself, and one after the loop
    has ended StateError.
    """
    return _synchronous(module)(app, loop)


@cache
def _asynchronous(module: Any) -> type:
    class Body(module.AsyncByteStream):  # type: ignore[misc]
        """The parts of a response. If it is forgotten, its request ends."""

        def __init__(self, exchange: Exchange, patience: float | None) -> None:
            self._exchange = exchange
            self._patience = patience
            finalizer = weakref.finalize(self, _forgotten, asyncio.get_running_loop(), exchange)
            finalizer.atexit = False  # the loop has ended by then

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while (part := await _in_time(module, self._exchange.part(), self._patience)) is not None:
                yield part

        async def aclose(self) -> None:
            await self._exchange.close()

    class Transport(module.AsyncBaseTransport):  # type: ignore[misc]
        """Calls an ASGI application."""

        def __init__(self, app: App) -> None:
            self._app = app

        async def handle_async_request(self, request: Any) -> Any:
            body = b"".join([part async for part in request.stream])
            exchange = Exchange(self._app, _asked(request, body))
            patience = _patience(request)
            try:
                status, headers = await _in_time(module, exchange.head(), patience)
            except BaseException:
                await exchange.close()
                raise
            return module.Response(status, headers=headers, stream=Body(exchange, patience))

    return Transport


@cache
def _synchronous(module: Any) -> type:
    class Body(module.SyncByteStream):  # type: ignore[misc]
        """The parts of a response. If it is forgotten, its request ends."""

        def __init__(self, exchange: Exchange, patience: float | None, loop: asyncio.AbstractEventLoop) -> None:
            self._exchange = exchange
            self._patience = patience
            self._loop = loop
            finalizer = weakref.finalize(self, _forgotten, loop, exchange)
            finalizer.atexit = False

        def __iter__(self) -> Iterator[bytes]:
            while (part := _run(self._loop, _in_time(module, self._exchange.part(), self._patience))) is not None:
                yield part

        def close(self) -> None:
            if _is_running_here(self._loop):  # the collector closes a stream in any thread
                self._exchange.abandon()
            else:
                _run(self._loop, self._exchange.close())

    class Transport(module.BaseTransport):  # type: ignore[misc]
        """Calls an ASGI application in another thread's event loop."""

        def __init__(self, app: App, loop: asyncio.AbstractEventLoop) -> None:
            self._app = app
            self._loop = loop

        def handle_request(self, request: Any) -> Any:
            asked, patience = _asked(request, b"".join(request.stream)), _patience(request)
            exchange, (status, headers) = _run(self._loop, self._begin(asked, patience))
            return module.Response(status, headers=headers, stream=Body(exchange, patience, self._loop))

        async def _begin(self, request: Request, patience: float | None) -> Any:
            exchange = Exchange(self._app, request)
            try:
                return exchange, await _in_time(module, exchange.head(), patience)
            except BaseException:
                await exchange.close()
                raise

    return Transport


def _asked(request: Any, body: bytes) -> Request:
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    return Request(request.method, request.url.path, request.url.query, headers, body)


def _patience(request: Any) -> float | None:
    """Return the client's read timeout in seconds: nobody else applies it to a transport."""
    limit = request.extensions.get("timeout", {}).get("read")
    return None if limit is None else float(limit)


async def _in_time(module: Any, wait: Coroutine[Any, Any, _Result], patience: float | None) -> _Result:
    try:
        async with asyncio.timeout(patience):
            return await wait
    except TimeoutError:
        raise module.ReadTimeout(f"nothing came for {patience:g} s") from None
    except StalledError as error:
        raise module.ReadError(str(error)) from None


def _forgotten(loop: asyncio.AbstractEventLoop, exchange: Exchange) -> None:
    """End a request whose response nobody has any more. The collector runs in any thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(exchange.abandon)


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `work` in another thread's loop, and wait for it as long as that loop runs."""
    try:
        _check(loop)
        future: Future[_Result] = asyncio.run_coroutine_threadsafe(work, loop)
    except BaseException:
        work.close()
        raise
    try:
        while True:
            try:
                return future.result(_LOOK)
            except TimeoutError:
                if future.done():
                    raise
                _check(loop)
    except BaseException:
        future.cancel()
        raise


def _check(loop: asyncio.AbstractEventLoop) -> None:
    if loop.is_closed() or not loop.is_running():
        raise StateError("the event loop of the cluster does not run, so this call would wait for ever")
    if _is_running_here(loop):
        raise WrongLoopError(
            "this call would wait for itself: use the asynchronous client, or call it in a thread (asyncio.to_thread)"
        )


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
