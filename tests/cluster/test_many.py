"""Many prompts at once: `generate_many` over the `sim` engine in this event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np
import pytest

from preble import (
    ClosedError,
    ContextLengthError,
    EngineError,
    Generation,
    InvalidRequestError,
    OverloadedError,
    PrebleCluster,
    SamplingParams,
)
from preble.cluster.many import Batch, Job
from tests.cluster.cases import GREEDY, SLOW, eventually, prompt

LIMIT = 500
FAILING_TOKEN = 31_999
TOO_LONG = [9] * (LIMIT + 1)
PROMPTS = [*(prompt(number) for number in range(20)), TOO_LONG, *(prompt(number) for number in range(21, 40))]
"""Forty prompts, of which the one at 20 can never run."""


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[PrebleCluster]:
    """A cluster that has nothing in flight in the end."""
    engine = {"context_limit": LIMIT, "fail_prompt_token": FAILING_TOKEN, **options.pop("engine_options", {})}
    async with PrebleCluster(backend="sim", processes=False, engine_options=engine, **options) as cluster:
        yield cluster
        await eventually(lambda: cluster.stats().in_flight == 0)
        cluster.check()


async def asynchronous(values: Any) -> AsyncIterator[Any]:
    """The same values, each after a turn of the loop."""
    for value in values:
        await asyncio.sleep(0)
        yield value


async def test_errors_take_the_places_of_results_if_asked_for():
    async with running() as cluster:
        outs = await cluster.generate_many(PROMPTS, GREEDY, concurrency=8, return_exceptions=True)
        alone = [await cluster.generate(PROMPTS[index], GREEDY) for index in (19, 21)]
    assert [index for index, out in enumerate(outs) if not isinstance(out, Generation)] == [20]
    assert isinstance(outs[20], ContextLengthError)
    assert (outs[20].index, outs[20].field) == (20, "prompt")
    assert [outs[19].token_ids, outs[21].token_ids] == [out.token_ids for out in alone]


@pytest.mark.parametrize(
    ("bad", "error"), [(TOO_LONG, ContextLengthError), ([FAILING_TOKEN], EngineError)], ids=["refused", "failed"]
)
async def test_the_first_error_names_its_prompt_and_has_what_was_done(bad: list[int], error: type[Exception]):
    async with running() as cluster:
        with pytest.raises(error, match=r"^prompts\[5\]: ") as caught:
            await cluster.generate_many([*PROMPTS[:5], bad, *PROMPTS[6:20]], GREEDY, concurrency=1)
        alone = await cluster.generate(PROMPTS[4], GREEDY)
        assert sorted(caught.value.results) == [0, 1, 2, 3, 4]
        assert caught.value.results[4].token_ids == alone.token_ids
        assert caught.value.index == 5
        assert cluster.stats().counters.submitted < 20


async def test_results_come_as_they_end():
    async with running(workers=1, engine_options=SLOW) as cluster:
        lengths = [SamplingParams(max_tokens=count, ignore_eos=True) for count in (40, 20, 1)]
        prompts = [prompt(number) for number in range(3)]
        ended = [found async for found in cluster.generate_many(prompts, lengths, as_completed=True)]
    assert [(index, len(out.token_ids)) for index, out in ended] == [(2, 1), (1, 20), (0, 40)]


async def test_errors_come_as_they_end_too():
    async with running() as cluster:
        both = {"as_completed": True, "return_exceptions": True}
        ended = dict([found async for found in cluster.generate_many(PROMPTS, GREEDY, **both)])
        assert sorted(ended) == list(range(40))
        assert isinstance(ended[20], ContextLengthError)
        with pytest.raises(ContextLengthError, match=r"prompts\[20\]"):
            _ = [found async for found in cluster.generate_many(PROMPTS, GREEDY, as_completed=True)]


async def test_leaving_the_results_early_cancels_the_rest():
    async with running(workers=1, engine_options=SLOW) as cluster:
        endless = [SamplingParams(max_tokens=1), *[SamplingParams(max_tokens=400)] * 3]
        results = cluster.generate_many(PROMPTS[:4], endless, as_completed=True)
        async with aclosing(results):
            assert (await anext(results))[0] == 0
            assert cluster.stats().in_flight == 3
        assert cluster.stats().in_flight == 0
        assert cluster.stats().counters.cancelled == 3


async def test_a_slow_reader_slows_the_work_down():
    taken: list[int] = []

    def endless() -> Iterator[list[int]]:
        while True:
            taken.append(len(taken))
            yield prompt(taken[-1])

    async with running() as cluster:
        results = cluster.generate_many(endless(), GREEDY, concurrency=2, as_completed=True)
        async with aclosing(results):
            for _ in range(3):
                await anext(results)
            before = -1
            while len(taken) < 100 and (before < len(taken) or cluster.stats().in_flight):
                before = len(taken)
                await eventually(lambda: cluster.stats().in_flight == 0)
                for _ in range(20):  # turns of the loop, in which a worker that is free takes the next
                    await asyncio.sleep(0)
            assert len(taken) <= 3 + 2 + 2, "two results wait, and two workers hold one each"


async def test_prompts_sampling_and_options_may_come_asynchronously():
    async with running() as cluster:
        prompts = [prompt(number) for number in range(6)]
        lengths = [SamplingParams(max_tokens=number + 1, ignore_eos=True) for number in range(6)]
        names = [{"request_id": f"job {number}"} for number in range(6)]
        outs = await cluster.generate_many(
            asynchronous(prompts), asynchronous(lengths), options=asynchronous(names), concurrency=3
        )
    assert [(out.id, len(out.token_ids)) for out in outs] == [(f"job {number}", number + 1) for number in range(6)]


async def test_each_prompt_may_have_options_of_its_own_before_the_common_ones():
    async with running(workers=4, policy="session-hash") as cluster:
        sessions = [{"session": f"s{number % 3}"} for number in range(9)]
        outs = await cluster.generate_many(PROMPTS[:9], GREEDY, options=sessions, tenant="t", session="common")
        alone = [await cluster.generate(PROMPTS[0], GREEDY, session=f"s{number}") for number in range(3)]
    assert [out.worker for out in outs] == [alone[number % 3].worker for number in range(9)]


@pytest.mark.parametrize("own", [{"sesion": "a"}, {"timeout": -1}, "session"])
async def test_a_wrong_option_of_one_prompt_is_its_error(own: Any):
    async with running() as cluster:
        outs = await cluster.generate_many(PROMPTS[:2], GREEDY, options=[own, {}], return_exceptions=True)
        assert isinstance(outs[0], InvalidRequestError)
        assert isinstance(outs[1], Generation)


class Bar:
    """What tqdm is, as far as it is used here."""

    def __init__(self) -> None:
        self.done = 0

    def update(self, n: int) -> None:
        self.done += n


async def test_progress_is_a_function_or_a_bar():
    told: list[int] = []
    bar = Bar()
    async with running() as cluster:
        await cluster.generate_many(PROMPTS[:7], GREEDY, progress=told.append)
        await cluster.generate_many(PROMPTS, GREEDY, progress=bar, return_exceptions=True)
    assert told == list(range(1, 8))
    assert bar.done == 40


async def test_prompts_wait_while_the_cluster_drains():
    async with running(engine_options=SLOW) as cluster:
        work = asyncio.create_task(cluster.generate_many(PROMPTS[:20], GREEDY, concurrency=4))
        await eventually(lambda: cluster.stats().in_flight == 4)
        await cluster.drain()
        assert not work.done()
        assert len(await work) == 20


async def test_prompts_wait_where_too_many_are_in_flight():
    async with running(max_in_flight=3, engine_options=SLOW) as cluster:
        twice = SamplingParams(max_tokens=4, n=2)
        outs = await cluster.generate_many(PROMPTS[:8], [GREEDY, twice] * 4)
        assert [len(out.choices) for out in outs] == [1, 2] * 4
        with pytest.raises(OverloadedError, match="at most 3"):
            await cluster.generate_many(PROMPTS[:2], SamplingParams(n=4))


async def test_closing_the_cluster_ends_those_who_wait_too():
    async with PrebleCluster(backend="sim", processes=False, max_in_flight=1, engine_options=SLOW) as cluster:
        endless = SamplingParams(max_tokens=400)
        waits = {"return_exceptions": True, "concurrency": 3}
        work = asyncio.create_task(cluster.generate_many(PROMPTS[:3], [GREEDY, endless, endless], **waits))
        await eventually(lambda: cluster.stats().counters.finished == 1 and cluster.stats().in_flight == 1)
        draining = asyncio.create_task(cluster.drain())
        await asyncio.sleep(0)
        await cluster.close()
        with pytest.raises(ClosedError, match=r"^prompts\[[12]\]: the cluster") as caught:
            await work
        assert list(caught.value.results) == [0]
        await draining
    with pytest.raises(ClosedError):
        cluster.generate_many(PROMPTS[:3])


@pytest.mark.parametrize("field", ["sampling", "options"])
@pytest.mark.parametrize("listed", [True, False], ids=["lists", "iterators"])
@pytest.mark.parametrize("count", [3, 5])
async def test_there_must_be_as_many_of_one_as_of_the_others(field: str, listed: bool, count: int):
    values = [GREEDY if field == "sampling" else {}] * count
    given = {field: values if listed else iter(values)}
    async with running() as cluster:
        with pytest.raises(InvalidRequestError, match=f"{field}.*prompts|prompts.*{field}"):
            await cluster.generate_many(PROMPTS[:4] if listed else iter(PROMPTS[:4]), **given)
        assert not listed or cluster.stats().counters.submitted == 0


@pytest.mark.parametrize(
    "lone", ["a text", b"\0\0\0\0", np.array([1, 2, 3]), {"role": "user", "content": "hello"}, None, 7]
)
async def test_what_is_not_many_prompts_is_refused(lone: Any):
    async with running() as cluster:
        with pytest.raises(InvalidRequestError, match=r"^prompts: (is one prompt|must be an iterable)"):
            await cluster.generate_many(lone)


@pytest.mark.parametrize("many", [["a", "b"], [[1, 2], [3, 4]]])
async def test_many_prompts_for_generate_are_sent_on(many: Any):
    async with running() as cluster:
        with pytest.raises(InvalidRequestError, match="call `generate_many`"):
            await cluster.generate(many)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, None])
async def test_the_concurrency_must_be_a_number(concurrency: Any):
    async with running() as cluster:
        with pytest.raises(InvalidRequestError, match="concurrency: must be"):
            await cluster.generate_many([], concurrency=concurrency)


async def test_an_error_of_what_yields_the_prompts_ends_it_all():
    def prompts() -> Iterator[list[int]]:
        yield prompt(1)
        raise OSError("no more lines")

    async with running() as cluster:
        with pytest.raises(OSError, match="no more lines"):
            await cluster.generate_many(prompts(), GREEDY, return_exceptions=True)


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_cancellation_by_what_yields_the_prompts_ends_it_all(concurrency: int):
    def prompts() -> Iterator[list[int]]:
        yield prompt(1)
        raise asyncio.CancelledError("no more lines")

    async with running() as cluster:
        caught = asyncio.create_task(cluster.generate_many(prompts(), GREEDY, concurrency=concurrency))
        await eventually(caught.done)
        assert caught.cancelled()


async def test_leaving_the_results_early_ends_what_yields_the_jobs():
    ended = []

    async def jobs() -> AsyncGenerator[Job, None]:
        try:
            for index in range(9):
                yield Job(index, prompt(index), GREEDY, {})
        finally:
            ended.append(True)

    async with running() as cluster:
        source = jobs()
        batch = Batch(
            lambda *of: cluster.generate(of[0], of[1]),
            source,
            common={},
            concurrency=2,
            progress=None,
            return_exceptions=False,
        )
        async with aclosing(batch.as_completed()) as results:
            await anext(results)
        assert ended == [True]


async def test_a_drained_cluster_stays_closed_until_it_is_reopened():
    async with running() as cluster:
        await cluster.drain(reopen=False)
        await cluster.drain()  # an ordinary one beside it opens nothing
        with pytest.raises(OverloadedError, match="reopen"):
            await cluster.generate(prompt(1), GREEDY)
        waiting = asyncio.create_task(cluster.generate_many(PROMPTS[:3], GREEDY))
        await cluster.reset_cache()
        assert await cluster.add_worker() == "w2"
        assert not waiting.done()
        cluster.reopen()
        assert len(await waiting) == 3
        assert await cluster.generate(prompt(1), GREEDY)
        cluster.reopen()


async def test_a_drain_that_is_given_up_leaves_the_cluster_open():
    async with running(engine_options=SLOW) as cluster:
        request = asyncio.create_task(cluster.generate(prompt(1), SamplingParams(max_tokens=400)))
        await eventually(lambda: cluster.stats().in_flight == 1)
        draining = asyncio.create_task(cluster.drain(reopen=False))
        await asyncio.sleep(0)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        await cluster.generate(prompt(2), GREEDY)
        request.cancel()
