"""`LaunchedPool` by itself: over workers in this event loop, and over a launcher whose workers the test speaks for."""

from __future__ import annotations

import asyncio
import itertools
import logging
from functools import partial
from typing import Any, ClassVar

import pytest

from preble import ConfigurationError, EngineError, PrebleCluster, WorkerLostError, WorkerStartError
from preble.backends import Delta, EngineInfo, EngineRequest, Load
from preble.backends.sim import SimEngine
from preble.tokens import pack
from preble.transport.memory import MemoryDealer, MemoryRouter
from preble.transport.schema import (
    VERSION,
    Broken,
    Hello,
    Ready,
    ResetCache,
    ResetDone,
    ResetFailed,
    StartFailed,
    Step,
    Stop,
    Stopping,
    Submit,
    Ticket,
    decode_to_worker,
    encode,
)
from preble.workers.binding import Binding, Bindings
from preble.workers.launched import LaunchedPool
from preble.workers.launchers.exit_status import in_words
from preble.workers.launchers.in_loop import InLoopLauncher
from preble.workers.pool import Listener
from preble.workers.worker import construct
from tests.cluster.cases import GREEDY, prompt

TOKENS = b"\xc4\x04" + pack([1])
"""The tokens of `step()` in its frame."""

INFO = EngineInfo(model="m", vocab_size=9, context_limit=9, kv_tokens=9, block_size=1, max_running=9)


class Puppet:
    """A worker whose words and end the test chooses."""

    pid = None

    def __init__(self, ticket: Ticket, router: MemoryRouter) -> None:
        self.ticket = ticket
        self.log = f"last words of {ticket.worker}"
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.heard: list[object] = []
        self._link = MemoryDealer(router, ticket.identity, lambda frame: self.heard.append(decode_to_worker(frame)))

    def say(self, *messages: Any) -> None:
        for message in messages:
            self._link.send(encode(message))

    def say_bytes(self, frame: bytes) -> None:
        self._link.send(frame)

    def greet(self, **changes: object) -> None:
        words = {"version": VERSION, "worker": self.ticket.worker, "incarnation": "i", "nonce": self.ticket.nonce}
        self.say(Hello(**{**words, **changes}))  # type: ignore[arg-type]

    def exit(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)

    def kill(self) -> None:
        self.exit(-9)

    def how_it_ended(self) -> str:
        return in_words(self.exited.result())

    def log_tail(self) -> str:
        return self.log


class Puppets:
    """A launcher of puppets, by name."""

    def __init__(self) -> None:
        self.started: dict[str, Puppet] = {}

    def __getitem__(self, name: str) -> Puppet:
        return self.started[name]

    def listen(self, receive: Any) -> MemoryRouter:
        self.router = MemoryRouter(receive)
        return self.router

    async def start(self, ticket: Ticket, binding: Binding) -> Puppet:
        puppet = self.started[ticket.worker] = Puppet(ticket, self.router)
        return puppet


class Heard:
    """What a pool told, in order."""

    def __init__(self) -> None:
        self.news: list[tuple[Any, ...]] = []
        names = ("on_step", "on_failed", "on_lost", "on_found", "on_stopping")
        self.listener = Listener(**{name: self._noting(name) for name in names})

    def _noting(self, name: str) -> Any:
        return lambda *arguments: self.news.append((name, *arguments))


def pool_of(launcher: Any, workers: int = 1, **options: Any) -> LaunchedPool:
    counter = itertools.count(1)
    return LaunchedPool(
        launcher,
        backend="sim",
        model=None,
        options=options,
        bindings=Bindings(workers),
        random_hex=lambda size: f"{next(counter)}/{size}",
    )


async def until_delivered() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def serving(puppets: Puppets, heard: Heard, workers: int = 1) -> LaunchedPool:
    pool = pool_of(puppets, workers)
    starting = asyncio.create_task(pool.start(heard.listener, 5.0))
    await until_delivered()
    for puppet in puppets.started.values():
        puppet.greet()
        puppet.say(Ready(INFO))
    assert await starting == dict.fromkeys(puppets.started, INFO)
    return pool


def step(token: int = 1) -> Step:
    return Step((), ((7, Delta(pack([token]))),), (), Load(0, 0, 0))


async def test_tickets_have_ids_and_secrets_from_outside():
    puppets = Puppets()
    pool = await serving(puppets, Heard(), workers=2)
    tickets = [puppet.ticket for puppet in puppets.started.values()]
    assert [(ticket.worker, ticket.incarnation, ticket.nonce) for ticket in tickets] == [
        ("w0", "1/8", "2/16"),
        ("w1", "3/8", "4/16"),
    ]
    await pool.stop(0.0)


@pytest.mark.parametrize("changes", [{"nonce": "guessed"}, {"version": VERSION + 1}])
async def test_a_worker_that_does_not_greet_as_its_ticket_says_is_not_heard(changes: dict[str, Any]):
    puppets = Puppets()
    starting = asyncio.create_task(pool_of(puppets).start(Heard().listener, 0.05))
    await until_delivered()
    puppets["w0"].greet(**changes)
    puppets["w0"].say(Ready(INFO))
    with pytest.raises(WorkerStartError, match="not ready within") as caught:
        await starting
    assert puppets.router.rejected == 1
    assert caught.value.log == "last words of w0"


async def test_a_worker_that_fails_to_start_ends_the_others():
    puppets = Puppets()
    starting = asyncio.create_task(pool_of(puppets, 2).start(Heard().listener, 5.0))
    await until_delivered()
    puppets["w1"].greet()
    puppets["w1"].say(StartFailed("configuration", "odd"))
    with pytest.raises(ConfigurationError, match="odd"):
        await starting
    assert [puppet.exited.result() for puppet in puppets.started.values()] == [-9, -9]


async def test_a_pool_tells_what_its_workers_say_and_that_one_is_lost():
    puppets, heard = Puppets(), Heard()
    pool = await serving(puppets, heard, workers=2)
    puppets["w1"].say(step(), Stopping())
    await until_delivered()
    puppets["w1"].exit(3)
    await until_delivered()
    *news, (name, worker, error) = heard.news
    assert news == [("on_step", "w1", step()), ("on_stopping", "w1")]
    assert (name, worker, str(error)) == ("on_lost", "w1", "the worker died (exit status 3)")
    assert error.log == "last words of w1"
    assert not pool.awaits("w1")
    with pytest.raises(WorkerLostError):
        pool.send("w1", ResetCache(1))
    await pool.stop(0.0)
    assert len(heard.news) == 3, "that it stops its workers, it need not tell"


async def test_a_loss_is_logged_with_the_last_lines(caplog):
    puppets = Puppets()
    pool = await serving(puppets, Heard(), workers=2)
    puppets["w0"].log = "\n".join(map(str, range(100)))
    with caplog.at_level(logging.WARNING, logger="preble"):
        puppets["w0"].exit(-11)
        await until_delivered()
        await pool.stop(0.0)
    (record,) = caplog.records
    first, *lines = record.getMessage().splitlines()
    assert (record.name, record.levelname) == ("preble.workers", "WARNING")
    assert first == "worker w0 is lost: the worker died (killed by SIGSEGV); its last lines:"
    assert lines == [str(number) for number in range(80, 100)]


async def test_a_worker_whose_engine_broke_gets_nothing_more_and_is_lost_with_the_reason():
    puppets, heard = Puppets(), Heard()
    pool = await serving(puppets, heard, workers=2)
    puppets["w1"].say(Broken("the device is gone"))
    await until_delivered()
    assert heard.news == [("on_stopping", "w1")]
    puppets["w1"].exit(3)
    await until_delivered()
    assert str(heard.news[-1][2]) == "the worker died (exit status 3): the device is gone"
    await pool.stop(0.0)


async def test_a_worker_that_broke_and_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr("preble.workers.launched._STOPPED_WITHIN", 0.01)
    puppets, heard = Puppets(), Heard()
    pool = await serving(puppets, heard)
    puppets["w0"].say(Broken("the device is gone"))
    async with asyncio.timeout(5):
        while heard.news[-1:] == [] or heard.news[-1][0] != "on_lost":
            await asyncio.sleep(0)
    assert str(heard.news[-1][2]) == "the worker died (killed by SIGKILL): the device is gone"
    await pool.stop(0.0)


async def test_a_worker_that_says_what_cannot_be_understood_is_lost():
    puppets, heard = Puppets(), Heard()
    pool = await serving(puppets, heard, workers=2)
    puppets["w1"].say_bytes(encode(step()).replace(TOKENS, b"\xc4\x03abc"))
    await until_delivered()
    assert puppets.router.rejected == 1
    ((name, worker, error),) = heard.news
    assert (name, worker) == ("on_lost", "w1")
    assert str(error).startswith("the worker died (killed by SIGKILL): it said what cannot be understood: 3 bytes are")
    await pool.stop(0.0)


async def test_a_worker_whose_start_cannot_be_understood_does_not_start():
    puppets = Puppets()
    starting = asyncio.create_task(pool_of(puppets).start(Heard().listener, 5.0))
    await until_delivered()
    puppets["w0"].greet()
    puppets["w0"].say_bytes(encode(Ready(INFO)).replace(b"\xa1m", b"\xc0"))
    with pytest.raises(WorkerStartError, match="it said what cannot be understood: Expected `str`, got `None`"):
        await starting


async def test_a_removed_worker_is_told_to_stop_and_not_heard():
    puppets, heard = Puppets(), Heard()
    pool = await serving(puppets, heard)
    removing = asyncio.create_task(pool.remove("w0"))
    await until_delivered()
    assert puppets["w0"].heard == [Stop(0.0)]
    puppets["w0"].say(step())
    await until_delivered()
    puppets["w0"].exit(0)
    await removing
    assert heard.news == []
    await pool.remove("w0")


async def test_a_cache_is_reset_when_the_worker_says_so_or_dies():
    puppets = Puppets()
    pool = await serving(puppets, Heard(), workers=2)
    resets = [asyncio.create_task(pool.reset_cache(name)) for name in ("w0", "w1", "w0")]
    await until_delivered()
    assert puppets["w0"].heard == [ResetCache(1), ResetCache(3)]
    puppets["w0"].say(ResetDone(3))
    await until_delivered()
    assert [reset.done() for reset in resets] == [False, False, True]
    puppets["w0"].say(ResetDone(1))
    puppets["w1"].exit(1)
    assert isinstance((await asyncio.gather(*resets, return_exceptions=True))[1], WorkerLostError)
    await pool.stop(0.0)


async def test_a_cache_that_could_not_be_reset_is_an_error_of_its_worker():
    puppets = Puppets()
    pool = await serving(puppets, Heard())
    reset = asyncio.create_task(pool.reset_cache("w0"))
    await until_delivered()
    puppets["w0"].say(ResetFailed(1, "busy"))
    with pytest.raises(EngineError, match="busy") as caught:
        await reset
    assert caught.value.worker == "w0"
    await pool.stop(0.0)


@pytest.mark.parametrize("how", ["removed", "stopped"])
async def test_a_worker_that_is_ended_while_it_starts_leaves_nothing(how):
    puppets, heard = Puppets(), Heard()
    pool = await serving(puppets, heard)
    adding = asyncio.create_task(pool.add(5.0))
    await until_delivered()
    ending = asyncio.create_task(pool.remove("w1") if how == "removed" else pool.stop(0.0))
    await until_delivered()
    for puppet in puppets.started.values():
        puppet.exit(0)
    with pytest.raises(WorkerStartError, match=r"ended before it was ready \(exit status 0\)"):
        await adding
    await ending
    assert all(worker != "w1" for _, worker, *_ in heard.news)
    await pool.stop(0.0)
    assert pool.pids() == {}


async def test_one_more_worker_that_is_late_is_killed():
    puppets = Puppets()
    pool = await serving(puppets, Heard())
    with pytest.raises(WorkerStartError, match=r"not ready within 0\.01 s"):
        await pool.add(0.01)
    assert puppets["w1"].exited.result() == -9
    assert pool.pids() == {}
    await pool.stop(0.0)


async def test_a_pool_over_this_loop_serves():
    heard = Heard()
    pool = pool_of(InLoopLauncher())
    infos = await pool.start(heard.listener, 5.0)
    assert infos["w0"].model == "sim"
    pool.send("w0", Submit(EngineRequest(1, pack([5, 6]), GREEDY)))
    async with asyncio.timeout(5):
        while not any(delta.finish_reason for _, _, news in heard.news for _, delta in news.deltas):
            await asyncio.sleep(0)
    await pool.stop(0.0)
    assert {name for name, *_ in heard.news} == {"on_step"}


class SlowToClose(SimEngine):
    """Closes when it is told that it may."""

    closed: ClassVar[list[str]] = []
    may_close: asyncio.Event

    async def close(self) -> None:
        await super().close()
        try:
            await self.may_close.wait()
        except asyncio.CancelledError:
            self.closed.append("cancelled")
            raise
        self.closed.append("closed")


@pytest.mark.parametrize("grace", [0.0, 60.0])
async def test_an_engine_in_this_process_has_time_to_close(monkeypatch, grace):
    """What it has in this process, nobody else can free. The grace of a pool is for requests, and then for this."""
    monkeypatch.setattr("preble.workers.launched._STOPPED_WITHIN", 0.01)
    monkeypatch.setattr(SlowToClose, "closed", [])
    monkeypatch.setattr(SlowToClose, "may_close", asyncio.Event(), raising=False)
    pool = pool_of(InLoopLauncher(partial(construct, SlowToClose)))
    await pool.start(Heard().listener, 5.0)
    stopping = asyncio.create_task(pool.stop(grace))
    await asyncio.wait([stopping], timeout=0.05)  # more than the pool waits before it kills
    assert not stopping.done()
    SlowToClose.may_close.set()
    await stopping
    assert SlowToClose.closed == ["closed"]


async def test_an_engine_in_this_process_that_does_not_close_is_cancelled(monkeypatch):
    monkeypatch.setattr("preble.workers.launched._STOPPED_WITHIN", 0.01)
    monkeypatch.setattr("preble.workers.launchers.in_loop._CLOSE_PATIENCE", 0.01)
    monkeypatch.setattr(SlowToClose, "closed", [])
    monkeypatch.setattr(SlowToClose, "may_close", asyncio.Event(), raising=False)
    pool = pool_of(InLoopLauncher(partial(construct, SlowToClose)))
    await pool.start(Heard().listener, 5.0)
    await pool.stop(0.0)
    assert SlowToClose.closed == ["cancelled"]


async def test_a_cluster_takes_a_pool_of_your_own():
    async with PrebleCluster(pool=pool_of(InLoopLauncher(), 2)) as cluster:
        assert (await cluster.generate(prompt(1), GREEDY)).usage.output_tokens == 8
        assert [worker.worker for worker in cluster.stats().workers] == ["w0", "w1"]
