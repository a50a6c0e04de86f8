"""One engine as a process: `python -m preble.workers.worker` takes its ticket from standard input and serves.

A request costs one task. What the engine's streams yield during one iteration of the event loop leaves as one `Step`;
what a lone request's stream yields leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Literal, NoReturn

from preble.backends import Delta, Engine, EngineInfo, EngineRequest, Load, StepTiming, find_backend
from preble.errors import (
    ConfigurationError,
    EngineDeadError,
    EngineError,
    FrameError,
    InvalidRequestError,
    ModelError,
    OverloadedError,
    PrebleError,
    check_names,
)
from preble.transport.memory import MemoryDealer
from preble.transport.schema import (
    MAX_TICKET,
    VERSION,
    Abort,
    Broken,
    Failed,
    FromWorker,
    Hello,
    Ready,
    ResetCache,
    ResetDone,
    ResetFailed,
    StartFailed,
    Stop,
    Stopped,
    Stopping,
    Submit,
    Ticket,
    decode_ticket,
    decode_to_worker,
    encode,
    submitted_id,
)
from preble.transport.zeromq import Dealer
from preble.workers import engine_output
from preble.workers.outbox import Outbox

HEARTBEAT = 0.5
"""Seconds between the `Step`s of an idle worker."""

GRACE = 5.0
"""Seconds that running requests get after SIGTERM."""

BROKEN = 3
"""Exit status of a worker that broke while it served, as when its engine died."""

_RETRY = 0.01
_PATIENCE = 1.0
_CLOSE_PATIENCE = 3.0
_LONGEST_MESSAGE = 2000
_LONGEST_FIELD = 100
_METHODS = ("start", "generate", "abort", "cache_events", "load", "reset_cache", "close")
_logger = logging.getLogger("preble.workers.worker")


class Worker:
    """Serves one engine over one link: hand `receive` to the link, then await `run(link)`. Needs a running loop.

    `closing` is True once the engine is told to close.
    """

    def __init__(self, ticket: Ticket, make_engine: Callable[[Ticket], Engine]) -> None:
        self._ticket = ticket
        self._make_engine = make_engine
        self._loop = asyncio.get_running_loop()
        self._stopping: asyncio.Future[float] = self._loop.create_future()
        self._outbox = Outbox()
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._failed: set[int] = set()  # of those, they were told that they failed, and end
        self._resets: set[asyncio.Task[None]] = set()
        self._flush_due: asyncio.Handle | None = None
        self._heartbeat: asyncio.Handle | None = None
        self._beating = False
        self._link: Dealer | MemoryDealer | None = None
        self._made: Engine | None = None
        self._engine: Engine | None = None
        self._load = Load(0, 0, 0)
        self._fault = ""
        self.closing = False

    async def run(self, link: Dealer | MemoryDealer, on_ready: Callable[[], None] = lambda: None) -> bool:
        """Say hello, start the engine, serve until `stop`. Return False if the engine did not start.

        `on_ready` is called once the engine has started. Raises what breaks the worker as a whole; failures of single
        requests are told to the cluster.
        """
        self._link = link
        self._say(Hello(VERSION, self._ticket.worker, self._ticket.incarnation, self._ticket.nonce))
        try:
            engine = self._made = self._make_engine(self._ticket)
            info = await self._unless_stopped(_started(engine))
        except Exception as error:
            _logger.exception("the engine did not start")
            self._say(StartFailed(_kind(error), _message(error)))
            return False
        self._engine = engine
        if info is not None:
            on_ready()
            self._say(Ready(info))
            await self._serve()
        await self._close_engine()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._say_last(Stopped())
        return True

    async def abandon(self) -> None:
        """After `run`, however it ended: leave no task, and no engine open. The end of a process does that too."""
        self._link = self._engine = None
        if not self._stopping.cancel() and not self._stopping.cancelled():
            self._stopping.exception()  # that it broke, `run` has raised, unless it was cancelled
        tasks = (*self._requests.values(), *self._resets)
        for task in tasks:
            task.cancel()
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*tasks, return_exceptions=True)
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._close_engine()
        except Exception as error:
            _logger.error("an engine did not close", exc_info=error)

    def stop(self, grace: float) -> None:
        """Finish running requests within `grace` seconds, abort the rest, and let `run` return."""
        if not self._stopping.done():
            self._stopping.set_result(grace)
            with contextlib.suppress(PrebleError):  # it is only the sooner known
                self._say(Stopping())

    def receive(self, frame: bytes) -> None:
        """Act on a frame from the cluster. Raises FrameError if it makes no sense; a request in it fails."""
        try:
            message = decode_to_worker(frame)
        except FrameError as error:
            if (id := submitted_id(frame)) is not None:
                self._fail(id, InvalidRequestError(f"the worker cannot read it: {error}", field="request"))
            raise
        match message:
            case Submit():
                self._submit(message.request)
            case Abort():
                self._abort(message.ids)
            case ResetCache():
                self._reset(message.id)
            case Stop():
                self.stop(message.grace)

    def check(self) -> None:
        """Raise AssertionError if news wait that nothing will send, or requests are held without an engine."""
        assert self._flush_due or not self._outbox or self._stopping.done(), "news wait and no flush is due"
        assert self._engine or not self._requests, "requests without an engine"
        assert self._failed <= self._requests.keys(), "one that failed has ended, and is kept"

    async def _unless_stopped(self, start: Coroutine[Any, Any, EngineInfo]) -> EngineInfo | None:
        starting = self._loop.create_task(start)
        both: tuple[asyncio.Future[Any], ...] = (starting, self._stopping)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            in_time = starting.done()
            starting.cancel()
        if in_time:
            return starting.result()
        await asyncio.wait({starting}, timeout=_PATIENCE)
        return None

    async def _close_engine(self) -> None:
        engine, self._made, self.closing = self._made, None, True
        if engine is not None:
            try:
                await engine.close()
            except Exception:
                _logger.exception("the engine did not close")

    async def _serve(self) -> None:
        self._beat()
        try:
            await self._finish_within(await self._stopping)
            self._abort(tuple(self._requests))
            await self._finish_within(_PATIENCE)
        finally:
            if self._heartbeat:
                self._heartbeat.cancel()

    async def _finish_within(self, seconds: float) -> None:
        if self._requests:
            await asyncio.wait(self._requests.values(), timeout=seconds)

    def _submit(self, request: EngineRequest) -> None:
        if self._engine is None:
            raise FrameError("the engine is not ready")
        if request.id in self._requests:
            raise FrameError(f"request {request.id} is running already")
        if self._stopping.done():
            self._aborted(request.id)
            return
        task = self._loop.create_task(self._answer(self._engine, request))
        self._requests[request.id] = task
        task.add_done_callback(partial(self._ended, request.id))

    async def _answer(self, engine: Engine, request: EngineRequest) -> None:
        stream, room, ended = None, request.sampling.token_limit, False
        try:
            stream = engine.generate(request)
            async for delta in stream:
                room -= engine_output.tokens_in(delta, request, room)
                self._outbox.deltas.append((request.id, delta))
                if len(self._requests) == 1 and self._flush_due is None:  # no other stream's news to wait for
                    self._flush()
                else:
                    self._flush_soon()
                ended = delta.finish_reason is not None
        except SystemExit as error:  # which would end the worker
            raise EngineError(f"the engine raised SystemExit: {error}") from error
        finally:
            if not ended:
                await _close(stream)
        if not ended:
            raise EngineError("the engine's stream ended without a finish reason")

    def _ended(self, id: int, task: asyncio.Task[None]) -> None:
        del self._requests[id]
        error = None if task.cancelled() else task.exception()
        if id in self._failed:
            self._failed.discard(id)
        elif isinstance(error, EngineDeadError):
            self._break(error)
        elif error:
            self._fail(id, error)
        elif task.cancelled():
            self._cancelled(id, task)

    def _cancelled(self, id: int, task: asyncio.Task[None]) -> None:
        if task.cancelling():
            self._aborted(id)
        else:
            self._fail(id, EngineError("the engine raised CancelledError, though nobody had cancelled the request"))

    def _aborted(self, id: int) -> None:
        self._outbox.deltas.append((id, Delta(b"", finish_reason="abort")))
        self._flush_soon()

    def _fail(self, id: int, error: BaseException) -> None:
        if not isinstance(error, PrebleError):
            _logger.error("request %d failed", id, exc_info=error)
        self._outbox.failed.append(_failed(id, error))
        self._flush_soon()

    def _abort(self, ids: tuple[int, ...]) -> None:
        """End requests. Cancelling covers those whose task has not begun, which the engine does not know yet."""
        for request in ids:
            if task := self._requests.get(request):
                self._give_up(request, task)

    def _give_up(self, id: int, task: asyncio.Task[None]) -> None:
        try:
            if self._engine:
                self._engine.abort(id)
        except Exception:
            _logger.exception("the engine did not abort a request")
        task.cancel()

    def _reset(self, id: int) -> None:
        if self._engine is None:
            raise FrameError("the engine is not ready")
        task = self._loop.create_task(self._reset_cache(self._engine, id))
        self._resets.add(task)
        task.add_done_callback(self._resets.discard)

    async def _reset_cache(self, engine: Engine, id: int) -> None:
        try:
            await engine.reset_cache()
        except EngineDeadError as error:
            self._break(error)
        except Exception as error:
            _logger.exception("the engine did not reset its cache")
            await self._say_last(ResetFailed(id, _message(error)))
        else:
            await self._say_last(ResetDone(id))

    def _break(self, error: Exception) -> None:
        """Let `run` raise `error`, and the cluster know of it, unless it is ending already."""
        if not self._stopping.done():
            self._stopping.set_exception(error)
            with contextlib.suppress(PrebleError):  # it is only the sooner known
                self._say(Broken(_message(error)))
        elif not isinstance(error, EngineDeadError):
            _logger.error("while stopping", exc_info=error)

    def _beat(self) -> None:
        self._beating = True
        self._flush()
        self._beating = False
        self._heartbeat = self._loop.call_later(HEARTBEAT, self._beat)

    def _flush_soon(self) -> None:
        if self._flush_due is None:
            self._flush_due = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flush_due:
            self._flush_due.cancel()
            self._flush_due = None
        try:
            self._send_step()
        except OverloadedError:
            self._flush_due = self._loop.call_later(_RETRY, self._flush)
        except Exception as error:
            self._break(error)

    def _send_step(self) -> None:
        """Send one step; what does not fit or cannot be queued now stays in the outbox."""
        if self._engine:
            timings = self._ask(self._engine)
            step = self._outbox.step(self._load, timings)
            self._say(step)
            self._outbox.sent(step)
            if self._outbox:
                self._flush_soon()

    def _ask(self, engine: Engine) -> Iterable[StepTiming]:
        """Take in what the engine tells of itself. If it cannot, all that run fail: nothing would be known of them."""
        try:
            self._outbox.evicted += engine_output.evictions(engine)
            self._load = engine_output.load(engine)
            # What steps took is no hurry: telling it once a heartbeat keeps it off the way of the requests.
            return engine_output.timings(engine) if self._beating else ()
        except EngineDeadError:
            raise
        except Exception as error:
            self._fail_all(error)
            return ()

    def _fail_all(self, error: Exception) -> None:
        if self._fault != (fault := _message(error)):  # once, and not with every heartbeat
            self._fault = fault
            _logger.error("the engine cannot tell of itself", exc_info=error)
        for id, task in self._requests.items():
            if id not in self._failed:
                self._failed.add(id)
                self._outbox.failed.append(_failed(id, error))
                self._give_up(id, task)

    async def _say_last(self, message: FromWorker) -> None:
        """Send `message` after all news so far, waiting for room in the queue."""
        self._flush()
        while True:
            if not self._outbox:
                with contextlib.suppress(OverloadedError):
                    return self._say(message)
            await asyncio.sleep(_RETRY)

    def _say(self, message: FromWorker) -> None:
        if self._link:
            self._link.send(encode(message))


def make_engine(ticket: Ticket) -> Engine:
    """Return the ticket's engine, not yet started. Raises ConfigurationError for an unknown backend or option."""
    backend = find_backend(ticket.backend)
    module, _, name = backend.path.partition(":")
    try:
        engine = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"backend {ticket.backend!r} cannot be imported: {error}{backend.hint}") from error
    return construct(engine, ticket)


def construct(engine: Callable[..., Engine], ticket: Ticket) -> Engine:
    """Return an engine of this class, not yet started. Raises ConfigurationError for an option that it lacks."""
    try:
        made = engine(model=ticket.model, **ticket.options)
    except TypeError as error:
        check_names(engine, ticket.options)
        raise ConfigurationError(f"backend {ticket.backend!r}: {error}") from error
    missing = [name for name in _METHODS if not callable(getattr(made, name, None))]
    if missing:
        raise ConfigurationError(f"backend {ticket.backend!r}: an engine needs the methods {', '.join(missing)}")
    return made


async def _started(engine: Engine) -> EngineInfo:
    return engine_output.checked_info(await engine.start())


async def _close(stream: Any) -> None:
    """Close an engine's stream that did not come to its end: the request must not go on."""
    if close := getattr(stream, "aclose", None):
        await close()


def _kind(error: Exception) -> Literal["model", "configuration", "crash"]:
    if isinstance(error, ModelError):
        return "model"
    return "configuration" if isinstance(error, ConfigurationError) else "crash"


def _message(error: BaseException) -> str:
    text = str(error) if isinstance(error, PrebleError) else f"{type(error).__name__}: {error}"
    return text[:_LONGEST_MESSAGE].encode(errors="backslashreplace").decode()  # half a surrogate pair cannot be sent


def _failed(id: int, error: BaseException) -> Failed:
    if isinstance(error, InvalidRequestError):
        return Failed(id, _message(error).removeprefix(f"{error.field}: "), error.field[:_LONGEST_FIELD])
    return Failed(id, _message(error))


async def _main(ticket: Ticket) -> int:
    worker = Worker(ticket, make_engine)
    listen = partial(asyncio.get_running_loop().add_signal_handler, signal.SIGTERM, worker.stop, GRACE)
    listen()
    link = Dealer(ticket.address, ticket.identity, worker.receive)
    try:
        return 0 if await worker.run(link, on_ready=listen) else 1  # again: engines put handlers of their own there
    except Exception:
        _logger.exception("the worker is broken")
        return BROKEN
    finally:
        link.close(linger=_PATIENCE)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def main() -> int:
    """Read the ticket and serve; return the exit status: 0 stopped, 1 the engine did not start, 2 no ticket.

    A worker that breaks exits at once with status 3.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    try:
        ticket = decode_ticket(sys.stdin.buffer.readline(MAX_TICKET + 1))
    except FrameError as error:
        _logger.error("no ticket on standard input: %s", error)
        return 2
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        status = runner.run(_main(ticket))
        if status == BROKEN:
            _exit_at_once(status)
    return status


def _exit_at_once(status: int) -> NoReturn:
    """End without waiting for threads, which may be those of an engine that hangs."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
