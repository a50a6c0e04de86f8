from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from preble.backends import Delta, EngineRequest, Load, StepTiming
from preble.backends.batching import Batcher, SampledToken, TokenSpan
from preble.backends.stepping import FAILURES, StepLoop
from preble.errors import EngineDeadError, EngineError, InvalidRequestError
from preble.tokens import pack, unpack
from preble.types import SamplingParams
from tests.backends.hash_model import HashModel, expected_output, make_batcher

LIMIT = 10
"""Seconds after which a test fails instead of hanging."""


class Gate:
    """Executes with the hash model; while shut, steps wait."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.model = HashModel(batcher)
        self.inside = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.steps = 0
        self.error: Exception | None = None

    async def execute(self, spans: list[TokenSpan]) -> list[SampledToken]:
        self.steps += 1
        self.inside.set()
        await self.open.wait()
        if self.error:
            raise self.error
        return self.model.execute(spans)

    async def entered(self) -> None:
        async with asyncio.timeout(LIMIT):
            await self.inside.wait()


def request(id: int, prompt, **sampling) -> EngineRequest:
    return EngineRequest(id, pack(list(prompt)), SamplingParams(**sampling))


async def following(deltas: AsyncIterator[Delta]) -> Delta:
    async with asyncio.timeout(LIMIT):
        return await anext(deltas)


@pytest.fixture
async def gate() -> Gate:
    return Gate(make_batcher())


@pytest.fixture
async def loop(gate: Gate) -> AsyncIterator[StepLoop]:
    loop = StepLoop(gate.batcher, gate.execute, itertools.count().__next__)
    loop.start()
    yield loop
    await loop.close()
    assert gate.batcher.idle
    gate.batcher.check()


async def read(deltas: AsyncIterator[Delta]) -> tuple[list[int], list[Delta]]:
    async with asyncio.timeout(LIMIT):
        told = [delta async for delta in deltas]
    return [token for delta in told for token in unpack(delta.tokens)], told


async def test_a_request_gets_its_cached_count_first_its_tokens_and_one_finish(loop):
    output, told = await read(loop.generate(request(0, range(10), max_tokens=6)))
    assert output == expected_output(tuple(range(10)), 6)
    assert told[0].cached_tokens == 0
    assert [delta.finish_reason for delta in told if delta.finish_reason] == ["length"]
    _, told = await read(loop.generate(request(0, range(10), max_tokens=1)))
    assert told[0].cached_tokens == 8


async def test_admission_is_told_before_the_step_ends(loop, gate):
    gate.open.clear()
    stream = loop.generate(request(0, range(10), max_tokens=1))
    assert await following(stream) == Delta(b"", cached_tokens=0)
    gate.open.set()
    assert (await following(stream)).finish_reason == "length"


async def test_what_a_slow_reader_missed_is_one_delta(loop):
    stream = loop.generate(request(0, range(10), max_tokens=8, logprobs=0))
    first = await following(stream)
    await read(loop.generate(request(1, [7, 7], max_tokens=20)))
    rest = await following(stream)
    assert rest.finish_reason == "length"
    assert len(rest.tokens) // 4 > 1
    assert list(unpack(first.tokens + rest.tokens)) == expected_output(tuple(range(10)), 8)
    assert [logprob.token_id for logprob in rest.logprobs] == list(unpack(rest.tokens))


async def test_200_requests_at_once(loop):
    prompts = [(key % 7, key % 5, *range(key % 11)) for key in range(200)]
    results = await asyncio.gather(
        *(read(loop.generate(request(key, prompt, max_tokens=5))) for key, prompt in enumerate(prompts))
    )
    for prompt, (output, _) in zip(prompts, results, strict=True):
        assert output == expected_output(prompt, 5)


async def test_closing_the_iterator_in_the_prefill_aborts(loop, gate):
    stream = loop.generate(request(0, range(100), max_tokens=5))
    gate.open.clear()
    await following(stream)
    await stream.aclose()
    assert loop.load() == Load(0, 0, 0)
    gate.open.set()
    assert (await read(loop.generate(request(1, [1], max_tokens=2))))[0] == expected_output((1,), 2)


async def test_closing_the_iterator_in_the_decode_aborts(loop):
    stream = loop.generate(request(0, range(9), max_tokens=100))
    async for delta in stream:
        if delta.tokens:
            break
    await stream.aclose()
    assert loop.load().running == 0


async def test_cancelling_the_reader_aborts(loop, gate):
    gate.open.clear()
    task = asyncio.create_task(read(loop.generate(request(0, range(9), max_tokens=100))))
    await gate.entered()
    task.cancel()
    await asyncio.wait([task])
    assert loop.load() == Load(0, 0, 0)


async def test_abort_ends_the_stream_with_that_reason_at_once(loop, gate):
    gate.open.clear()
    task = asyncio.create_task(read(loop.generate(request(0, range(9), max_tokens=100))))
    await gate.entered()
    loop.abort(0)
    loop.abort(55)
    output, told = await task
    assert output == []
    assert told[-1].finish_reason == "abort"


async def test_an_id_in_use_is_refused_and_harms_nobody(loop, gate):
    gate.open.clear()
    first = loop.generate(request(0, [1], max_tokens=3))
    await following(first)
    with pytest.raises(InvalidRequestError):
        await following(loop.generate(request(0, [2], max_tokens=3)))
    gate.open.set()
    assert (await read(first))[0] == expected_output((1,), 3)


async def test_a_refused_prompt_leaves_nothing_behind(loop):
    with pytest.raises(InvalidRequestError):
        await following(loop.generate(request(0, [], max_tokens=3)))
    assert (await read(loop.generate(request(0, [1], max_tokens=2))))[0] == expected_output((1,), 2)


class Poisoned:
    """Executes with the hash model; a step with token 99 in it fails."""

    def __init__(self, batcher: Batcher) -> None:
        self.model = HashModel(batcher)
        self.steps: list[list[int]] = []

    async def execute(self, spans: list[TokenSpan]) -> list[SampledToken]:
        self.steps.append([span.sequence.id for span in spans])
        if any(99 in unpack(span.tokens) for span in spans):
            raise RuntimeError("poison")
        return self.model.execute(spans)


async def test_a_failed_step_fails_its_requests_alone():
    batcher = make_batcher(max_running=3, discipline="fcfs")
    poisoned = Poisoned(batcher)
    loop = StepLoop(batcher, poisoned.execute, itertools.count().__next__)
    loop.start()
    prompts = [(1,), (2, 99), (3,), (4,)]
    *together, other = await asyncio.gather(
        *(read(loop.generate(request(key, prompt, max_tokens=3))) for key, prompt in enumerate(prompts)),
        return_exceptions=True,
    )
    for error in together:
        assert type(error) is EngineError
        assert str(error) == "a step failed: RuntimeError: poison"
        assert isinstance(error.__cause__, RuntimeError)
    assert other[0] == expected_output((4,), 3)
    batcher.check()
    assert batcher.idle
    await loop.close()


async def test_requests_that_fail_their_steps_again_and_again_do_not_end_an_engine_that_works():
    batcher = make_batcher(max_running=1)
    poisoned = Poisoned(batcher)
    loop = StepLoop(batcher, poisoned.execute, itertools.count().__next__)
    loop.start()
    for key in range(2 * FAILURES):
        with pytest.raises(EngineError, match="poison"):
            await read(loop.generate(request(key, [1, 99], max_tokens=3)))
        batcher.check()
    assert poisoned.steps == [[0], [1], [2], [-1], [3], [4], [5], [-1]]
    assert (await read(loop.generate(request(50, [1], max_tokens=3))))[0] == expected_output((1,), 3)
    assert loop.load() == Load(0, 0, 0)
    await loop.close()
    assert batcher.idle


async def test_a_success_in_between_starts_the_count_of_failures_again(loop, gate):
    for key in range(FAILURES):
        gate.error = RuntimeError("no memory")
        with pytest.raises(EngineError):
            await read(loop.generate(request(key, [key], max_tokens=1)))
        gate.error = None
        await read(loop.generate(request(key, [key], max_tokens=1)))
    assert gate.steps == 2 * FAILURES, "no step of a prompt that nobody sent"


async def test_an_engine_all_of_whose_steps_fail_is_dead(loop, gate):
    gate.error = RuntimeError("illegal access")
    for key in range(FAILURES - 1):
        with pytest.raises(EngineError, match="a step failed"):
            await read(loop.generate(request(key, [key], max_tokens=3)))
    gate.open.clear()
    gate.inside.clear()
    inside = asyncio.create_task(read(loop.generate(request(8, [1], max_tokens=3))))
    await gate.entered()
    waiting = asyncio.create_task(read(loop.generate(request(9, [1], max_tokens=3))))
    await asyncio.sleep(0)
    gate.open.set()
    for error in await asyncio.gather(inside, waiting, return_exceptions=True):
        assert isinstance(error, EngineDeadError)
        assert str(error) == "3 steps failed one after the other, the last of them: RuntimeError: illegal access"
        assert error.__cause__.__cause__ is gate.error
    for dead in (lambda: following(loop.generate(request(10, [1]))), loop.load):
        with pytest.raises(EngineDeadError, match="illegal access"):
            await dead()


async def test_an_engine_that_says_it_is_dead_is_believed_at_once(loop, gate):
    gate.error = EngineDeadError("the device is gone")
    with pytest.raises(EngineDeadError, match="the device is gone"):
        await read(loop.generate(request(0, [1], max_tokens=3)))
    with pytest.raises(EngineDeadError, match="the device is gone"):
        loop.load()


async def test_a_step_that_cannot_be_planned_ends_the_engine(loop, gate, monkeypatch):
    monkeypatch.setattr(gate.batcher, "plan", lambda now: 1 // 0)
    with pytest.raises(EngineDeadError, match="ZeroDivisionError"):
        await read(loop.generate(request(0, [1], max_tokens=3)))


async def test_steps_that_are_cancelled_from_outside_end_the_engine(loop, gate):
    gate.open.clear()
    reading = asyncio.create_task(read(loop.generate(request(0, [1], max_tokens=3))))
    await gate.entered()
    for task in asyncio.all_tasks():
        if task.get_name() == "preble-engine-steps":
            task.cancel()
    with pytest.raises(EngineDeadError, match="the steps were cancelled"):
        await reading


async def test_too_few_samples_are_a_failed_step_not_a_hang():
    async def execute(spans: list[TokenSpan]) -> list[SampledToken]:
        return []

    loop = StepLoop(make_batcher(), execute, itertools.count().__next__)
    loop.start()
    with pytest.raises(EngineError):
        await read(loop.generate(request(0, [1], max_tokens=3)))
    await loop.close()


async def test_close_aborts_what_is_open_and_refuses_what_comes_later(loop, gate):
    gate.open.clear()
    task = asyncio.create_task(read(loop.generate(request(0, range(9), max_tokens=100))))
    await gate.entered()
    await loop.close()
    assert (await task)[1][-1].finish_reason == "abort"
    with pytest.raises(EngineError, match="closed"):
        await following(loop.generate(request(1, [1])))
    await loop.close()


async def test_requests_made_before_start_are_served_after_it():
    batcher = make_batcher()
    loop = StepLoop(batcher, Gate(batcher).execute, itertools.count().__next__)
    task = asyncio.create_task(read(loop.generate(request(0, [1], max_tokens=2))))
    await asyncio.sleep(0)
    loop.start()
    assert (await task)[0] == expected_output((1,), 2)
    await loop.close()


async def test_reset_cache_and_its_event(loop):
    await read(loop.generate(request(0, range(10), max_tokens=1)))
    await loop.reset_cache()
    assert [(event.tokens, event.keep) for event in loop.cache_events()] == [(b"", 0)]
    assert (await read(loop.generate(request(1, range(10), max_tokens=1))))[1][0].cached_tokens == 0


async def test_no_step_runs_while_there_is_nothing_to_do(loop, gate):
    await read(loop.generate(request(0, range(4), max_tokens=1)))
    steps = gate.steps
    for _ in range(10):
        await asyncio.sleep(0)
    assert gate.steps == steps == 1


async def test_each_step_is_timed_once(loop):
    await read(loop.generate(request(0, range(10), max_tokens=3)))
    first, second, third = loop.timings()
    assert (first.new, first.context, first.product, first.decodes) == (10, 10, 100, 0)
    assert second == StepTiming(1, 11, 0, 0, 1, second.seconds)
    assert third == StepTiming(1, 12, 0, 0, 1, third.seconds)
    assert all(timing.seconds > 0 for timing in (first, second, third))
    assert loop.timings() == []


async def test_timings_that_nobody_reads_do_not_pile_up(loop):
    await read(loop.generate(request(0, [1], max_tokens=LIMIT)))
    for key in range(1, 60):
        await read(loop.generate(request(key, [key], max_tokens=5)))
    assert len(loop.timings()) == 256


async def test_a_step_counts_from_the_end_of_the_one_before_it():
    now = [0.0]
    batcher = make_batcher()
    model = HashModel(batcher)

    async def execute(spans: list[TokenSpan]) -> list[SampledToken]:
        now[0] += 10.0
        return model.execute(spans)

    loop = StepLoop(batcher, execute, lambda: now[0])
    loop.start()
    async for delta in loop.generate(request(0, range(10), max_tokens=3)):
        now[0] += 3.0 if delta.tokens else 0.0
    assert [timing.seconds for timing in loop.timings()] == [10.0, 13.0, 13.0]
    await loop.close()
