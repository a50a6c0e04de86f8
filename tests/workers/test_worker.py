from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load, StepTiming
from preble.errors import (
    ConfigurationError,
    EngineDeadError,
    EngineError,
    InvalidRequestError,
    ModelError,
    OverloadedError,
)
from preble.tokens import pack
from preble.transport.memory import MemoryDealer, MemoryRouter
from preble.transport.schema import (
    VERSION,
    Abort,
    Broken,
    Failed,
    Hello,
    Ready,
    ResetCache,
    ResetDone,
    ResetFailed,
    StartFailed,
    Step,
    Stop,
    Stopped,
    Stopping,
    Submit,
    Ticket,
    decode_from_worker,
    encode,
)
from preble.transport.zeromq import Router
from preble.types import SamplingParams
from preble.workers.launchers.local import Child
from preble.workers.worker import BROKEN, Worker, make_engine

GREEDY = SamplingParams(max_tokens=3, temperature=0.0)


class Counter:
    """A tiny engine: a prompt [first, count] yields first, first + 1, ...; below are its special first tokens."""

    FAILS, HANGS, ENDS_EARLY, BUG, REFUSED = 100, 101, 102, 103, 104

    def __init__(self, *, model: str | None = None, start: str = "well") -> None:
        self.events: list[Evicted] = []
        self.running: set[int] = set()
        self.aborted: list[int] = []
        self.closed = False
        self.resets = 0
        self.load_error: Exception | None = None
        self._start = start

    async def start(self) -> EngineInfo:
        if self._start == "never":
            await asyncio.Event().wait()
        if self._start == "seizing":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 9)
            self._start = "well"
        failures = {"model": ModelError("no such model"), "configuration": ConfigurationError("odd block size")}
        if self._start != "well":
            raise failures.get(self._start, RuntimeError("out of memory"))
        return EngineInfo(model="m", vocab_size=9, context_limit=9, kv_tokens=9, block_size=1, max_running=9)

    async def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        self.running.add(request.id)
        first, count = memoryview(request.tokens).cast("i")
        try:
            yield Delta(b"", cached_tokens=1)
            if first == self.FAILS:
                raise EngineError("no luck")
            if first == self.REFUSED:
                raise InvalidRequestError("not here", field="seed")
            if first == self.BUG:
                raise ZeroDivisionError("by zero")
            if first == self.HANGS:
                await asyncio.Event().wait()
            for number in range(count):
                await asyncio.sleep(0)
                last = number == count - 1 and first != self.ENDS_EARLY
                yield Delta(pack([first + number]), finish_reason="length" if last else None)
        finally:
            self.running.discard(request.id)

    def abort(self, id: int) -> None:
        self.aborted.append(id)

    def cache_events(self) -> list[Evicted]:
        events, self.events = self.events, []
        return events

    def load(self) -> Load:
        if self.load_error:
            raise self.load_error
        return Load(len(self.running), 0, 0)

    async def reset_cache(self) -> None:
        self.resets += 1
        self.events.append(Evicted(b"", 0))

    async def close(self) -> None:
        self.closed = True


def ticket(**changes: object) -> Ticket:
    fields = {"worker": "w0", "incarnation": "ab", "nonce": "n", "address": "memory", "backend": "sim"}
    return Ticket(**{**fields, **changes})  # type: ignore[arg-type]


class Desk:
    """A cluster's side of one worker: sends messages, collects answers."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[object] = asyncio.Queue()
        self.steps: list[Step] = []
        self.router: MemoryRouter | Router = MemoryRouter(self.receive)

    def receive(self, peer: bytes, frame: bytes) -> None:
        message = decode_from_worker(frame)
        if isinstance(message, Step):
            self.steps.append(message)
        self.messages.put_nowait(message)

    def send(self, *messages) -> None:
        for message in messages:
            self.router.send(b"w0.ab", encode(message))

    async def next(self, kind):
        async with asyncio.timeout(20):
            while not isinstance(message := await self.messages.get(), kind):
                pass
        return message

    async def result(self, id: int) -> tuple[tuple[int, ...], str]:
        """Return the tokens and the end, a finish reason or a failure, of a request."""
        tokens: tuple[int, ...] = ()
        seen = 0
        while True:
            for step in self.steps[seen:]:
                for _, delta in (item for item in step.deltas if item[0] == id):
                    tokens += tuple(memoryview(delta.tokens).cast("i"))
                    if delta.finish_reason:
                        return tokens, delta.finish_reason
                for failed in (each for each in step.failed if each.id == id):
                    return tokens, failed.reason
            seen = len(self.steps)
            await self.next(Step)


def submit(*fields: object) -> Submit:
    return Submit(EngineRequest(*fields))


class Bench:
    """A worker running in memory with a `Counter`."""

    def __init__(self, **options: str) -> None:
        self.desk = Desk()
        self.engine = Counter(**options)
        self.worker = Worker(ticket(), lambda _: self.engine)
        self.link = MemoryDealer(self.desk.router, b"w0.ab", self.worker.receive)
        self.running = asyncio.ensure_future(self.worker.run(self.link))

    async def ready(self) -> Desk:
        await self.desk.next(Ready)
        return self.desk

    async def end(self) -> bool:
        async with asyncio.timeout(20):
            return await self.running


@pytest.fixture
async def bench():
    bench = Bench()
    yield bench
    bench.worker.check()
    bench.worker.stop(0.0)
    with contextlib.suppress(EngineDeadError):
        await bench.end()


async def test_it_introduces_itself_and_gets_ready(bench):
    assert await bench.desk.next(object) == Hello(VERSION, "w0", "ab", "n")
    assert (await bench.desk.next(object)).info.model == "m"


async def test_requests_are_answered(bench):
    desk = await bench.ready()
    desk.send(*(submit(number, pack([number * 10, 3]), GREEDY) for number in range(5)))
    for number in range(5):
        assert await desk.result(number) == ((number * 10, number * 10 + 1, number * 10 + 2), "length")
    assert [delta.cached_tokens for step in desk.steps for number, delta in step.deltas if number == 3] == [
        1,
        None,
        None,
        None,
    ]


async def test_one_step_carries_the_news_of_all_requests(bench):
    desk = await bench.ready()
    desk.send(*(submit(number, pack([number, 3]), GREEDY) for number in range(50)))
    await desk.result(49)
    carrying = [step for step in desk.steps if step.deltas]
    assert len(carrying) <= 6
    assert max(len(step.deltas) for step in carrying) >= 50
    assert carrying[0].load.running == 50


@pytest.mark.parametrize(("requests", "sent"), [(1, [1, 2]), (2, [0, 0, 0, 0])])
async def test_only_a_lone_requests_news_leave_before_its_stream_goes_on(bench, requests, sent):
    seen = []

    async def generate(request: EngineRequest) -> AsyncIterator[Delta]:
        for finish_reason in (None, "length"):
            yield Delta(pack([1]), finish_reason=finish_reason)
            seen.append(sum(frame_of_deltas(frame) for frame in frames))

    def frame_of_deltas(frame: bytes) -> bool:
        message = decode_from_worker(frame)
        return isinstance(message, Step) and bool(message.deltas)

    desk = await bench.ready()
    frames, send = [], bench.link.send
    bench.link.send = lambda frame: (frames.append(frame), send(frame))
    bench.engine.generate = generate
    desk.send(*(submit(number, pack([1]), GREEDY) for number in range(requests)))
    for number in range(requests):
        assert await desk.result(number) == ((1, 1), "length")
    assert seen == sent


async def test_evictions_travel_with_steps(bench):
    desk = await bench.ready()
    bench.engine.events += [Evicted(pack([1, 2]), 1), Evicted(pack([3]), 0)]
    desk.send(submit(1, pack([5, 1]), GREEDY))
    await desk.result(1)
    assert [event for step in desk.steps for event in step.evicted] == [Evicted(pack([1, 2]), 1), Evicted(pack([3]), 0)]


async def test_timings_travel_with_heartbeats_if_the_engine_tells_any(bench, monkeypatch):
    monkeypatch.setattr("preble.workers.worker.HEARTBEAT", 0.01)
    desk = await bench.ready()
    desk.send(submit(1, pack([5, 2]), GREEDY))
    await desk.result(1)
    assert not any(step.timings for step in desk.steps)
    good = [StepTiming(1, 5, 0, 0, 1, 0.1), StepTiming(2, 5, 5, 10, 0, 0.2)]
    told = [
        StepTiming(-1, 5, 0, 0, 1, 0.1),
        *good,
        StepTiming(1, 5, 0, 0, 1, float("nan")),
        StepTiming(1, 5, 0, 0, 1, -1.0),
        StepTiming(2, 5, 6, 10, 0, 0.2),
        StepTiming(2, 5, 5, 10, 3, 0.2),
    ]
    bench.engine.timings = lambda: [told.pop(0)] if told else []
    async with asyncio.timeout(10):
        while told:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert [timing for step in desk.steps for timing in step.timings] == good


async def test_an_idle_worker_gives_signs_of_life(bench, monkeypatch):
    monkeypatch.setattr("preble.workers.worker.HEARTBEAT", 0.01)
    desk = await bench.ready()
    await desk.next(Step)
    bench.engine.events.append(Evicted(pack([1]), 0))
    await desk.next(Step)
    step = await desk.next(Step)
    assert step.deltas == ()
    assert any(step.evicted for step in desk.steps)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (Counter.FAILS, "no luck"),
        (Counter.BUG, "ZeroDivisionError: by zero"),
        (Counter.ENDS_EARLY, "the engine's stream ended without a finish reason"),
    ],
)
async def test_a_failure_is_of_one_request(bench, first, reason):
    desk = await bench.ready()
    desk.send(submit(1, pack([first, 1]), GREEDY), submit(2, pack([7, 2]), GREEDY))
    assert (await desk.result(1))[1] == reason
    assert await desk.result(2) == ((7, 8), "length")


async def test_a_request_that_the_engine_refuses_says_what_is_wrong_with_it(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([Counter.REFUSED, 1]), GREEDY), submit(2, pack([Counter.FAILS, 1]), GREEDY))
    await desk.result(1)
    await desk.result(2)
    failed = [failed for step in desk.steps for failed in step.failed]
    assert failed == [Failed(1, "not here", "seed"), Failed(2, "no luck", "")]


async def test_abort_ends_a_running_request(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([Counter.HANGS, 1]), GREEDY), submit(2, pack([Counter.HANGS, 1]), GREEDY))
    while len(bench.engine.running) < 2:
        await desk.next(Step)
    desk.send(Abort((1, 77)))
    assert await desk.result(1) == ((), "abort")
    assert bench.engine.running == {2}
    assert bench.engine.aborted == [1]


async def test_abort_ends_a_request_that_has_not_begun(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([Counter.HANGS, 1]), GREEDY), Abort((1,)))
    assert await desk.result(1) == ((), "abort")
    assert bench.engine.running == set()


async def test_reset_is_confirmed_after_its_evictions(bench):
    desk = await bench.ready()
    desk.send(ResetCache(5))
    assert await desk.next(ResetDone) == ResetDone(5)
    assert [event for step in desk.steps for event in step.evicted] == [Evicted(b"", 0)]
    assert bench.engine.resets == 1


async def test_nonsense_is_dropped_and_counted(bench):
    desk = await bench.ready()
    desk.router.send(b"w0.ab", b"\xff")
    desk.send(submit(1, pack([Counter.HANGS, 1]), GREEDY), submit(1, pack([4, 1]), GREEDY))
    desk.send(submit(2, pack([4, 1]), GREEDY))
    assert await desk.result(2) == ((4,), "length")
    assert bench.link.rejected == 2
    assert 1 in bench.engine.running


async def test_stop_lets_requests_finish(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([5, 3]), GREEDY), Stop(20.0), submit(2, pack([5, 3]), GREEDY))
    assert await desk.result(1) == ((5, 6, 7), "length")
    assert await desk.result(2) == ((), "abort")
    await desk.next(Stopped)
    assert await bench.end() is True
    assert bench.engine.closed


async def test_a_worker_that_is_to_stop_says_so_at_once(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([Counter.HANGS, 1]), GREEDY))
    while 1 not in bench.engine.running:
        await desk.next(Step)
    bench.worker.stop(20.0)
    assert await desk.next(Stopping) == Stopping()
    assert not bench.running.done()
    desk.send(Abort((1,)))
    await desk.next(Stopped)


async def test_stop_aborts_what_outlasts_the_grace(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([Counter.HANGS, 1]), GREEDY), Stop(0.01))
    assert await desk.result(1) == ((), "abort")
    await desk.next(Stopped)
    assert await bench.end() is True


async def test_stop_during_a_start_that_never_ends():
    bench = Bench(start="never")
    await bench.desk.next(Hello)
    bench.desk.send(Stop(1.0))
    await bench.desk.next(Stopped)
    assert await bench.end() is True
    assert bench.engine.closed


@pytest.mark.parametrize(
    ("start", "kind", "message"),
    [
        ("model", "model", "no such model"),
        ("configuration", "configuration", "odd block size"),
        ("else", "crash", "RuntimeError: out of memory"),
    ],
)
async def test_a_start_that_fails_says_why(start, kind, message):
    bench = Bench(start=start)
    assert await bench.desk.next(StartFailed) == StartFailed(kind, message)
    assert await bench.end() is False


async def test_a_full_queue_delays_and_loses_nothing(bench):
    desk = await bench.ready()
    send, refused = bench.link.send, 0

    def refuse_twice_of_three(frame: bytes) -> None:
        nonlocal refused
        refused += 1
        if refused % 3:
            raise OverloadedError("full")
        send(frame)

    bench.link.send = refuse_twice_of_three
    desk.send(*(submit(number, pack([number, 3]), GREEDY) for number in range(20)), ResetCache(1))
    for number in range(20):
        assert await desk.result(number) == ((number, number + 1, number + 2), "length")
    desk.send(ResetCache(2))
    await desk.next(ResetDone)
    assert refused > 3


async def test_an_engine_that_cannot_tell_its_load_fails_what_runs_and_goes_on(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([Counter.HANGS, 1]), GREEDY), submit(2, pack([Counter.HANGS, 1]), GREEDY))
    while len(bench.engine.running) < 2:
        await desk.next(Step)
    bench.engine.load_error = ZeroDivisionError("by zero")
    desk.send(ResetCache(1))
    for number in (1, 2):
        assert await desk.result(number) == ((), "the engine's load() raised ZeroDivisionError: by zero")
    assert sorted(bench.engine.aborted) == [1, 2]
    bench.engine.load_error = None
    desk.send(submit(3, pack([5, 2]), GREEDY))
    assert await desk.result(3) == ((5, 6), "length")
    assert [failed.id for step in desk.steps for failed in step.failed] == [1, 2]
    assert not [id for step in desk.steps for id, delta in step.deltas if delta.finish_reason == "abort"]


@pytest.mark.parametrize(
    ("method", "returned", "reason"),
    [
        ("load", None, "the engine's load() returned NoneType, not a Load"),
        ("load", Load(1, 0, 0.5), "the engine's load() returned Load(running=1, waiting=0, used_tokens=0.5)"),  # type: ignore[arg-type]
        ("cache_events", None, "the engine's cache_events() returned NoneType, not a list"),
        ("cache_events", [Evicted(b"abc", 0)], "the engine's cache_events() returned Evicted(tokens=b'abc'"),
        ("cache_events", [Evicted(b"", -1)], "no right Evicted"),
        (
            "cache_events",
            [Evicted(b"", 0, "\ud800")],
            "the engine's cache_events() returned a cache salt that is wrong",
        ),
    ],
)
async def test_what_an_engine_tells_of_itself_is_looked_at_before_it_is_sent(bench, method, returned, reason):
    desk = await bench.ready()
    good = getattr(bench.engine, method)
    setattr(bench.engine, method, lambda: returned)
    desk.send(submit(1, pack([5, 2]), GREEDY))
    assert reason in (await desk.result(1))[1]
    setattr(bench.engine, method, good)
    desk.send(submit(2, pack([5, 2]), GREEDY))
    assert await desk.result(2) == ((5, 6), "length")


def yielding(*deltas: object, error: BaseException | None = None):
    async def generate(request: EngineRequest) -> AsyncIterator[object]:
        for delta in deltas:
            yield delta
        if error:
            raise error

    return generate


@pytest.mark.parametrize(
    ("generate", "reason"),
    [
        (yielding("hello"), "the engine yielded str, not a Delta"),
        (yielding(None), "the engine yielded NoneType, not a Delta"),
        (yielding(Delta([5, 6])), "the engine yielded tokens as list, not as bytes packed by preble.tokens.pack"),  # type: ignore[arg-type]
        (yielding(Delta(b"abc")), "the engine yielded b'abc', which are no token ids packed as int32"),
        (yielding(Delta(b"\xff" * 4)), "which are no token ids packed as int32"),
        (yielding(Delta(pack([5] * 4), None, "length")), "the engine yielded more than the 3 tokens"),
        (yielding(*[Delta(pack([5]))] * 4), "the engine yielded more than the 3 tokens"),
        (
            yielding(Delta(b"", None, "nonsense")),
            "the engine yielded the finish reason 'nonsense', none of stop",
        ),  # type: ignore[arg-type]
        (yielding(Delta(b"", -7)), "the engine says that -7 tokens of a prompt of 2 were cached"),
        (yielding(Delta(b"", 10**30)), "tokens of a prompt of 2 were cached"),
        (yielding(Delta(b"", None, "stop", 10**30)), "the engine yielded a Delta that is wrong"),
        (yielding(Delta(b"", 3)), "the engine says that 3 tokens of a prompt of 2 were cached"),
        (yielding(Delta(b"", None, "stop", object())), "the engine yielded a Delta that is wrong"),  # type: ignore[arg-type]
        (yielding(error=SystemExit(3)), "the engine raised SystemExit: 3"),
        (yielding(error=asyncio.CancelledError()), "the engine raised CancelledError"),
        (yielding(error=BaseException("odd")), "BaseException: odd"),
        (yielding(error=EngineError("half a pair: \ud800")), "half a pair"),
        (lambda request: None, "TypeError"),
        (lambda request: [][0], "IndexError"),
    ],
)
async def test_an_engine_that_breaks_the_protocol_fails_that_request_and_no_other(bench, generate, reason):
    desk = await bench.ready()
    desk.send(submit(1, pack([Counter.HANGS, 1]), GREEDY))
    while 1 not in bench.engine.running:
        await desk.next(Step)
    good, bench.engine.generate = bench.engine.generate, generate
    desk.send(submit(2, pack([5, 2]), GREEDY))
    assert reason in (await desk.result(2))[1]
    bench.engine.generate = good
    desk.send(submit(3, pack([5, 2]), GREEDY), Abort((1,)))
    assert await desk.result(3) == ((5, 6), "length")
    assert await desk.result(1) == ((), "abort")


async def test_a_stream_that_breaks_the_protocol_is_closed(bench):
    closed = asyncio.Event()

    async def generate(request: EngineRequest) -> AsyncIterator[Delta]:
        try:
            while True:
                yield Delta(pack([5]))
        finally:
            closed.set()

    desk = await bench.ready()
    bench.engine.generate = generate
    desk.send(submit(1, pack([5, 2]), GREEDY))
    assert await desk.result(1) == ((5, 5, 5), "the engine yielded more than the 3 tokens that were asked for")
    assert closed.is_set()


async def test_a_request_that_the_worker_cannot_read_fails(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([5, 2]), GREEDY, True), submit(2, pack([5, 2]), GREEDY, 0, "", -1.0))
    assert "the worker cannot read it: Expected `int`, got `bool`" in (await desk.result(1))[1]
    assert "the worker cannot read it: Expected `float` >= 0" in (await desk.result(2))[1]
    assert {failed.field for step in desk.steps for failed in step.failed} == {"request"}
    assert bench.link.rejected == 2


async def test_a_cache_that_cannot_be_reset_is_told_of(bench):
    async def reset_cache() -> None:
        raise ZeroDivisionError("by zero")

    desk = await bench.ready()
    bench.engine.reset_cache = reset_cache
    desk.send(ResetCache(5))
    assert await desk.next(ResetFailed) == ResetFailed(5, "ZeroDivisionError: by zero")


async def test_an_engine_that_dies_breaks_the_worker_at_once(bench):
    desk = await bench.ready()
    desk.send(submit(1, pack([Counter.HANGS, 1]), GREEDY))
    while 1 not in bench.engine.running:
        await desk.next(Step)
    bench.engine.generate = yielding(error=EngineDeadError("the device is gone"))
    desk.send(submit(2, pack([5, 1]), GREEDY))
    assert await desk.next(Broken) == Broken("the device is gone")
    with pytest.raises(EngineDeadError):
        await bench.end()
    assert not any(step.failed for step in desk.steps), "what it had goes elsewhere"
    await bench.worker.abandon()


@pytest.mark.parametrize("method", ["load", "cache_events"])
async def test_an_idle_engine_that_is_dead_breaks_the_worker(bench, monkeypatch, method):
    monkeypatch.setattr("preble.workers.worker.HEARTBEAT", 0.01)

    def dead() -> None:
        raise EngineDeadError("the device is gone")

    desk = await bench.ready()
    setattr(bench.engine, method, dead)
    assert await desk.next(Broken) == Broken("the device is gone")
    with pytest.raises(EngineDeadError):
        await bench.end()


async def test_an_engine_that_cannot_close_ends_all_the_same(bench):
    async def close() -> None:
        raise ZeroDivisionError

    desk = await bench.ready()
    bench.engine.close = close
    desk.send(Stop(0.0))
    await desk.next(Stopped)
    assert await bench.end() is True


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, "the engine's start() returned NoneType, not an EngineInfo"),
        ({"block_size": 0}, "the engine's start() returned an EngineInfo with block_size=0"),
        ({"kv_tokens": -5}, "the engine's start() returned an EngineInfo with kv_tokens=-5"),
        ({"vocab_size": 9.0}, "the engine's start() returned an EngineInfo with vocab_size=9.0"),
        ({"cost": None}, "the engine's start() returned an EngineInfo that is wrong: Expected `str`, got `None`"),
    ],
)
async def test_a_start_that_returns_nonsense_says_so(info, message):
    good = {"model": "m", "vocab_size": 9, "context_limit": 9, "kv_tokens": 9, "block_size": 1, "max_running": 9}

    async def start() -> EngineInfo | None:
        return EngineInfo(**{**good, **info}) if info else None

    bench = Bench()
    bench.engine.start = start
    failed = await bench.desk.next(StartFailed)
    assert failed.kind == "crash"
    assert failed.message.startswith(message)
    assert await bench.end() is False


class Halfway:
    """An engine that lacks methods."""

    def __init__(self, *, model: str | None = None) -> None: ...

    async def start(self) -> None: ...

    abort = close = reset_cache = start


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "nonsense"}, "backend: unknown 'nonsense', one of"),
        ({"backend": "no.such.module:Engine"}, "cannot be imported: No module named 'no'"),
        ({"backend": "preble.backends.sim:Nothing"}, "cannot be imported"),
        ({"options": {"no_such_option": 1}}, "no_such_option"),
        ({"backend": "tests.workers.test_worker:Halfway"}, "needs the methods generate, cache_events, load$"),
    ],
)
def test_engines_that_cannot_be_made(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        make_engine(ticket(**changes))


async def _started(desk: Desk, **changes: object) -> Child:
    desk.router = Router(desk.receive)
    return await Child.start(ticket(address=desk.router.address, **changes))


async def test_a_process_serves_and_stops():
    desk = Desk()
    child = await _started(desk, options={"time_scale": 0})
    await desk.next(Ready)
    desk.send(*(submit(number, pack(range(number, number + 50)), GREEDY) for number in range(20)))
    results = [await desk.result(number) for number in range(20)]
    assert {(len(tokens), reason) for tokens, reason in results} == {(3, "length")}
    desk.send(Stop(1.0))
    await desk.next(Stopped)
    assert await child.exited == 0
    desk.router.close()


@pytest.mark.parametrize("start", ["well", "seizing"], ids=["as it should", "with an engine that takes the signal"])
async def test_a_process_stops_at_sigterm(start):
    desk = Desk()
    child = await _started(desk, backend="tests.workers.test_worker:Counter", options={"start": start})
    await desk.next(Ready)
    os.kill(child.pid, signal.SIGTERM)
    await desk.next(Stopped)
    assert await child.exited == 0
    desk.router.close()


async def test_a_process_that_cannot_start_says_why_and_leaves_its_log():
    desk = Desk()
    child = await _started(desk, backend="tests.workers.test_worker:Counter", options={"start": "else"})
    assert await desk.next(StartFailed) == StartFailed("crash", "RuntimeError: out of memory")
    assert await child.exited == 1
    assert "RuntimeError: out of memory" in child.log_tail()
    assert "Traceback" in child.log_tail()
    desk.router.close()


class Dying(Counter):
    """Dies with its first request, and leaves a thread that never ends."""

    async def start(self) -> EngineInfo:
        threading.Thread(target=threading.Event().wait).start()
        return await super().start()

    async def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        yield Delta(b"")
        raise EngineDeadError("the device is gone")


async def test_a_process_whose_engine_dies_ends_whatever_its_threads_do():
    desk = Desk()
    child = await _started(desk, backend="tests.workers.test_worker:Dying")
    await desk.next(Ready)
    desk.send(submit(1, pack([5, 1]), GREEDY))
    assert await desk.next(Broken) == Broken("the device is gone")
    assert await child.exited == BROKEN
    assert child.how_it_ended() == "exit status 3"
    assert "the worker is broken" in child.log_tail()
    assert "EngineDeadError: the device is gone" in child.log_tail()
    desk.router.close()


@pytest.mark.parametrize("line", [b"", b"not json\n", json.dumps({"worker": "w"}).encode()])
def test_no_ticket(line):
    ended = subprocess.run([sys.executable, "-m", "preble.workers.worker"], input=line, capture_output=True)
    assert ended.returncode == 2
    assert b"no ticket on standard input" in ended.stderr
