from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from preble import SamplingParams
from preble.backends import EngineRequest
from preble.backends.admission import Admission
from preble.errors import InvalidRequestError
from preble.tokens import pack
from preble.wait_queue.local import LocalScheduler

LENGTH = 10


def request(id: int, *, first: int | None = None, **fields: object) -> EngineRequest:
    start = id * 100 if first is None else first
    return EngineRequest(id, pack(range(start, start + LENGTH)), SamplingParams(), **fields)  # type: ignore[arg-type]


class Door:
    """An admission, and requests that stay inside until they are told to leave."""

    def __init__(self, cached: Callable[[bytes, str], int] = lambda tokens, salt: 0, **options: Any) -> None:
        options = {"max_running": 2, "prefill_ahead": 1000, "spare": 0} | options
        self.admission = Admission(LocalScheduler("fcfs"), cached=cached, **options)
        self.order: list[int] = []
        self.refused: list[int] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.leaving: dict[int, asyncio.Event] = {}

    async def arrive(self, *requests: EngineRequest) -> None:
        for each in requests:
            self.leaving[each.id] = asyncio.Event()
            self.tasks[each.id] = asyncio.create_task(self.stay(each))
        await settle()

    async def stay(self, request: EngineRequest) -> None:
        async with self.admission.enter(request):
            await asyncio.sleep(0)
            if self.admission.begin(request.id):
                self.order.append(request.id)
                await self.leaving[request.id].wait()
            else:
                self.refused.append(request.id)

    async def leave(self, *ids: int) -> None:
        for id in ids:
            self.leaving[id].set()
        await settle()

    async def empty(self) -> None:
        self.admission.check()
        for task in self.tasks.values():
            task.cancel()
        await settle()
        self.admission.check()
        assert self.admission.inside == self.admission.waiting == 0


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


async def test_as_many_are_inside_as_run_and_a_few_more():
    door = Door(spare=1)
    await door.arrive(*map(request, range(5)))
    assert (door.order, door.admission.inside, door.admission.waiting) == ([0, 1, 2], 3, 2)
    await door.leave(1)
    assert door.order == [0, 1, 2, 3]
    await door.empty()


async def test_prompts_are_let_in_for_two_steps_beyond_the_first_and_one_always():
    """Of the first almost nothing may be left: a step that found only that would compute next to nothing."""
    door = Door(max_running=9, prefill_ahead=LENGTH + 1)
    await door.arrive(*map(request, range(5)))
    assert door.order == [0, 1, 2]
    door.admission.prefilled(0)
    door.admission.prefilled(0)
    await settle()
    assert door.order == [0, 1, 2, 3]
    await door.empty()
    narrow = Door(prefill_ahead=0)
    await narrow.arrive(*map(request, range(2)))
    assert narrow.order == [0]
    await narrow.empty()


async def test_what_was_let_in_a_moment_ago_can_still_be_refused():
    door = Door()
    await door.arrive(request(0))
    door.leaving[1] = asyncio.Event()
    door.tasks[1] = asyncio.create_task(door.stay(request(1)))
    while door.admission.inside < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # its task has noticed
    assert (door.order, door.refused) == ([0], [])
    assert not door.admission.refuse(0), "it has begun: its engine must abort it"
    assert door.admission.refuse(1)
    await settle()
    assert (door.order, door.refused, door.admission.inside) == ([0], [1], 1)
    await door.empty()


async def test_what_is_cached_takes_no_room():
    door = Door(cached=lambda tokens, salt: LENGTH - 1, max_running=9, prefill_ahead=3)
    await door.arrive(*map(request, range(6)))
    assert door.order == [0, 1, 2, 3]
    await door.empty()


async def test_a_lower_priority_goes_first():
    door = Door(max_running=1)
    await door.arrive(request(0))
    await door.arrive(request(1, priority=5), request(2, priority=-5))
    await door.leave(0, 1, 2)
    assert door.order == [0, 2, 1]
    await door.empty()


async def test_followers_wait_for_the_prompt_they_share_but_not_across_salts():
    door = Door(max_running=9)
    await door.arrive(request(0, first=7), request(1, first=7), request(2, first=7, cache_salt="own"))
    assert door.order == [0, 2]
    door.admission.prefilled(0)
    await settle()
    assert door.order == [0, 2, 1]
    await door.empty()


async def test_cached_is_asked_for_the_prompt_and_its_salt():
    asked: set[tuple[bytes, str]] = set()
    door = Door(cached=lambda tokens, salt: asked.add((tokens, salt)) or 0)
    await door.arrive(request(3, cache_salt="red"))
    assert asked == {(request(3).tokens, "red")}
    await door.empty()


async def test_what_is_cached_is_learned_anew_before_each_look_at_the_queue():
    looks: list[int] = []
    door = Door(max_running=1, refresh=lambda: looks.append(len(door.order)))
    await door.arrive(request(0), request(1))
    await door.leave(0)
    assert (door.order, looks) == ([0, 1], [0, 1])
    await door.empty()


async def test_one_that_waits_can_be_refused_and_one_inside_cannot():
    door = Door(max_running=1)
    await door.arrive(request(0), request(1))
    assert not door.admission.refuse(0)
    assert not door.admission.refuse(9)
    assert door.admission.refuse(1)
    await settle()
    assert (door.order, door.refused) == ([0], [1])
    await door.empty()


async def test_one_that_is_cancelled_makes_room_wherever_it_is():
    door = Door(max_running=1)
    await door.arrive(request(0), request(1), request(2))
    door.tasks[1].cancel()
    door.tasks[0].cancel()
    await settle()
    assert door.order == [0, 2]
    await door.empty()


async def test_one_whose_time_is_up_is_not_let_in():
    door = Door()
    await door.arrive(request(0, remaining=0.0), request(1))
    assert door.order == [1]
    await door.empty()


async def test_an_id_is_here_once():
    door = Door()
    await door.arrive(request(0), request(0))
    with pytest.raises(InvalidRequestError, match="id"):
        await door.tasks[0]
    await door.leave(0)
