"""The dispatcher by itself: what it sends is kept in a list, what workers say is made up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from preble.backends import Delta, Load
from preble.core.copies import Copy
from preble.core.policy import Decision
from preble.core.scheduler import Scheduler
from preble.dispatch.dispatcher import Dispatcher
from preble.dispatch.request import Flight
from preble.errors import EngineError, InvalidRequestError, OverloadedError, WorkerLostError
from preble.tokens import pack, unpack
from preble.transport.schema import Abort, Failed, Step, Submit, ToWorker
from preble.types import RequestOptions, SamplingParams
from tests.cluster.cases import prompt

PROMPT = pack(prompt(1))


class First:
    """Sends everything to the first worker, or to the one at `index`; proposes the copies that it was given."""

    relieves = True

    def __init__(self) -> None:
        self.index = self.asked = 0
        self.proposed: list[Copy] = []

    def place(self, query: object, fleet: Any, now: float) -> Decision:
        self.asked += 1
        return Decision(fleet.require_live()[self.index], "first")

    def copies(self, tree: object, now: float) -> list[Copy]:
        proposed, self.proposed = self.proposed, []
        return proposed


class Desk:
    """A dispatcher of two workers, "a" and "b". `full` lets them take nothing more."""

    def __init__(self) -> None:
        self.policy = First()
        self.scheduler = Scheduler(self.policy)
        self.dispatcher = Dispatcher(self.scheduler, max_in_flight=10)
        self.dispatcher.send = self.send
        self.sent: list[tuple[str, ToWorker]] = []
        self.full = False
        self.dispatcher.start(asyncio.get_running_loop())
        for worker in ("a", "b"):
            self.scheduler.add_worker(worker, kv_tokens=10_000, now=0.0)

    def send(self, worker: str, message: ToWorker) -> None:
        if self.full:
            raise OverloadedError("the peer's queue is full")
        self.sent.append((worker, message))

    def submit(self, id: str = "r1", tokens: bytes = PROMPT, **sampling: Any) -> Flight:
        flight = Flight(id, streaming=False)
        self.dispatcher.submit(flight, tokens, SamplingParams(**sampling), RequestOptions(), None)
        return flight

    def say(self, delta: Delta) -> None:
        """Let the worker that got the last request say something of it."""
        worker, message = self.sent[-1]
        assert isinstance(message, Submit)
        self.dispatcher.on_step(worker, Step((), ((message.request.id, delta),), (), Load(1, 0, 0)))


def crowd(desk: Desk) -> list[Flight]:
    """Four requests wait on the first worker, of which the last would start sooner elsewhere."""
    return [desk.submit(f"r{number}", pack(prompt(number))) for number in range(4)]


@pytest.fixture
async def desk():
    desk = Desk()
    yield desk
    desk.dispatcher.check()
    desk.dispatcher.close(WorkerLostError("the end"))


async def test_a_sample_that_lacks_its_finish_reason_only_ends_when_its_worker_is_lost(desk: Desk) -> None:
    flight = desk.submit(max_tokens=2)
    desk.say(Delta(pack([5, 6]), cached_tokens=0))
    desk.dispatcher.on_lost("a", WorkerLostError("gone", worker="a"))
    (sample,) = await flight.ready()
    assert (unpack(bytes(sample.output)), sample.finish_reason) == ((5, 6), "length")
    assert desk.dispatcher.counters.retried == 0
    assert len(desk.sent) == 1


async def test_a_delta_of_nothing_says_that_a_sample_waits_no_longer(desk: Desk) -> None:
    flight = desk.submit(max_tokens=1)
    assert desk.scheduler.fleet.waiting[0] == 1
    desk.say(Delta(b""))
    assert desk.scheduler.fleet.waiting[0] == 0
    desk.say(Delta(pack([5]), cached_tokens=3, finish_reason="length"))
    (sample,) = await flight.ready()
    assert sample.cached_tokens == desk.scheduler.explain(sample.id).cached_tokens == 3


async def test_a_sample_that_goes_elsewhere_waits_there_anew(desk: Desk) -> None:
    desk.submit(max_tokens=1)
    desk.say(Delta(b""))
    desk.dispatcher.on_lost("a", WorkerLostError("gone", worker="a"))
    assert desk.scheduler.fleet.waiting[1] == 1
    desk.say(Delta(b""))
    assert desk.scheduler.fleet.waiting[1] == 0
    desk.say(Delta(pack([5]), cached_tokens=3, finish_reason="length"))


async def test_a_sample_that_lacks_a_token_goes_on_elsewhere(desk: Desk) -> None:
    desk.submit(max_tokens=2)
    desk.say(Delta(pack([5]), cached_tokens=0))
    desk.dispatcher.on_lost("a", WorkerLostError("gone", worker="a"))
    worker, message = desk.sent[-1]
    assert (worker, message.request.tokens, message.request.sampling.max_tokens) == ("b", PROMPT + pack([5]), 1)


async def test_a_sample_that_a_worker_gives_up_goes_on_elsewhere(desk: Desk) -> None:
    desk.submit(max_tokens=3)
    desk.say(Delta(pack([5]), cached_tokens=0))
    desk.dispatcher.drain("a")
    desk.say(Delta(pack([6]), finish_reason="abort"))
    worker, message = desk.sent[-1]
    assert (worker, message.request.tokens, message.request.sampling.max_tokens) == ("b", PROMPT + pack([5, 6]), 1)
    assert desk.scheduler.requests_on("a") == 0
    assert desk.dispatcher.counters.retried == 1


async def test_a_request_that_its_engine_refuses_is_the_caller_s_fault_and_one_that_it_fails_is_not(desk: Desk) -> None:
    first, second = desk.submit(), desk.submit("r2")
    (_, one), (_, other) = desk.sent
    failed = (Failed(one.request.id, "not here", "seed"), Failed(other.request.id, "out of memory"))
    desk.dispatcher.on_step("a", Step((), (), failed, Load(0, 0, 0)))
    with pytest.raises(InvalidRequestError, match=r"^seed: not here$") as caught:
        await first.ready()
    assert (caught.value.field, caught.value.worker, caught.value.request_id) == ("seed", "a", "r1")
    with pytest.raises(EngineError, match=r"^out of memory$"):
        await second.ready()


async def test_what_waits_moves_where_the_policy_chooses_anew(desk: Desk) -> None:
    last = crowd(desk)[-1]
    desk.policy.index = 1
    desk.dispatcher._rebalance()
    (_, sent), (source, abort), (target, again) = desk.sent[-3:]
    assert (source, abort, target) == ("a", Abort((sent.request.id,)), "b")
    assert again.request.tokens == sent.request.tokens
    assert (desk.dispatcher.counters.moved, desk.scheduler.requests_on("b")) == (1, 1)
    desk.say(Delta(pack([5]), cached_tokens=0, finish_reason="length"))
    assert (await last.ready())[0].worker == "b"


async def test_what_the_policy_leaves_where_it_waits_keeps_its_place_and_is_not_asked_for_again(desk: Desk) -> None:
    last = crowd(desk)[-1]
    for _ in range(2):
        desk.dispatcher._rebalance()
    assert desk.policy.asked == 5
    assert len(desk.sent) == 4
    assert desk.dispatcher.counters.moved == 0
    desk.say(Delta(pack([5]), cached_tokens=0, finish_reason="length"))
    assert (await last.ready())[0].attempts == 1
    assert desk.scheduler.requests_on("a") == 3


async def test_a_copy_that_cannot_be_sent_is_in_no_book(desk: Desk) -> None:
    desk.policy.proposed = [Copy(PROMPT, "b")]
    desk.full = True
    desk.dispatcher._rebalance()
    assert desk.scheduler.requests_on("b") == 0
    assert desk.dispatcher.counters.copied == 0


async def test_a_delta_of_nothing_says_that_a_copy_waits_no_longer(desk: Desk) -> None:
    desk.policy.proposed = [Copy(PROMPT, "b")]
    desk.dispatcher._rebalance()
    assert desk.scheduler.fleet.waiting[1] == 1
    desk.say(Delta(b""))
    assert desk.scheduler.fleet.waiting[1] == 0
    desk.say(Delta(pack([5]), cached_tokens=0, finish_reason="length"))
    assert desk.scheduler.requests_on("b") == 0


async def test_closing_ends_the_wait_for_a_worker_that_is_copying(desk: Desk) -> None:
    desk.policy.proposed = [Copy(PROMPT, "b")]
    desk.dispatcher._rebalance()
    draining = asyncio.create_task(desk.dispatcher.idle("b"))
    await asyncio.sleep(0)
    desk.dispatcher.close(WorkerLostError("closed"))
    async with asyncio.timeout(10):
        await draining
