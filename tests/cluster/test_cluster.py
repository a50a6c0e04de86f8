"""The public API over real worker processes with the `sim` engine."""

from __future__ import annotations

import asyncio
import gc
import json
from array import array
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pydantic
import pytest
import pytest_asyncio

from preble import (
    ClosedError,
    ConfigurationError,
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    NotStartedError,
    OverloadedError,
    PrebleCluster,
    SamplingParams,
    WrongLoopError,
)
from preble.tokens import pack
from tests.cluster.cases import GREEDY, SLOW, eventually, prompt
from tests.policies import First

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAILING_TOKEN = 31_999


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[PrebleCluster]:
    async with PrebleCluster(backend="sim", engine_options={"fail_prompt_token": FAILING_TOKEN}) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: PrebleCluster) -> AsyncIterator[PrebleCluster]:
    """The shared cluster; whatever a test did, nothing may be left in its books."""
    yield running
    await eventually(lambda: running.stats().in_flight == 0)
    running.check()
    assert all(worker.load == 0 for worker in running.stats().workers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slow() -> AsyncIterator[PrebleCluster]:
    async with PrebleCluster(backend="sim", workers=1, engine_options={**SLOW, "max_running": 2}) as cluster:
        yield cluster
        cluster.check()


async def test_a_generation_tells_what_was_done(cluster: PrebleCluster) -> None:
    out = await cluster.generate(prompt(1), GREEDY)
    assert len(out.token_ids) == 8
    assert out.finish_reason == "length"
    assert (out.usage.prompt_tokens, out.usage.cached_tokens, out.usage.output_tokens) == (64, 0, 8)
    assert out.worker in {"w0", "w1"}
    assert 0 < out.timings.ttft <= out.timings.latency
    again = await cluster.generate(prompt(1), GREEDY)
    assert again.token_ids == out.token_ids
    assert again.worker == out.worker
    assert again.usage.cached_tokens == 48


async def test_the_next_turn_of_a_conversation_finds_the_answer_cached(cluster: PrebleCluster) -> None:
    first = await cluster.generate(prompt(2), SamplingParams(max_tokens=32))
    turn = await cluster.generate([*prompt(2), *first.token_ids, 5, 6, 7], GREEDY, session="s")
    assert turn.worker == first.worker
    assert turn.usage.cached_tokens == 80  # 64 + 31 tokens in whole blocks of 16


async def test_token_inputs_of_all_kinds_are_the_same_prompt(cluster: PrebleCluster) -> None:
    ids = prompt(3)
    kinds = [ids, tuple(ids), array("i", ids), np.array(ids, dtype=np.int32), pack(ids), bytearray(pack(ids))]
    outs = await cluster.generate_many(kinds, GREEDY)
    assert len({out.token_ids for out in outs}) == 1


async def test_a_stream_yields_what_generate_returns(cluster: PrebleCluster) -> None:
    chunks = [chunk async for chunk in cluster.stream(prompt(4), GREEDY)]
    whole = await cluster.generate(prompt(4), GREEDY)
    assert sum((chunk.token_ids for chunk in chunks), ()) == whole.token_ids
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage.output_tokens == 8
    assert chunks[-1].worker


async def test_a_stream_delivers_while_the_engine_works(slow: PrebleCluster) -> None:
    chunks = [chunk async for chunk in slow.stream(prompt(4), GREEDY)]
    assert sum(len(chunk.token_ids) for chunk in chunks) == 8
    assert len(chunks) >= 4, "tokens come while later ones are computed, a few at once where this process is late"


async def test_samples_of_one_prompt_are_told_apart(cluster: PrebleCluster) -> None:
    sampling = SamplingParams(max_tokens=6, n=5, seed=3)
    out = await cluster.generate(prompt(5), sampling)
    assert [choice.index for choice in out.choices] == [0, 1, 2, 3, 4]
    assert len({choice.token_ids for choice in out.choices}) == 5
    streamed: dict[int, tuple[int, ...]] = {}
    async for chunk in cluster.stream(prompt(5), sampling):
        streamed[chunk.index] = streamed.get(chunk.index, ()) + chunk.token_ids
    assert streamed == {choice.index: choice.token_ids for choice in out.choices}


async def test_logprobs_come_with_their_tokens(cluster: PrebleCluster) -> None:
    sampling = SamplingParams(max_tokens=5, logprobs=2, seed=3)
    out = await cluster.generate(prompt(6), sampling)
    assert [entry.token_id for entry in out.logprobs] == list(out.token_ids)
    assert all(len(entry.top) == 2 for entry in out.logprobs)
    streamed = [entry async for chunk in cluster.stream(prompt(6), sampling) for entry in chunk.logprobs]
    assert tuple(streamed) == out.logprobs


async def test_logprobs_of_the_prompt_come_once_for_all_samples(cluster: PrebleCluster) -> None:
    sampling = SamplingParams(max_tokens=5, prompt_logprobs=2, n=3, temperature=0.0)
    out = await cluster.generate(prompt(6), sampling)
    assert out.prompt_logprobs is not None
    assert [entry and entry.token_id for entry in out.prompt_logprobs] == [None, *prompt(6)[1:]]
    chunks = [chunk async for chunk in cluster.stream(prompt(6), sampling)]
    told = [(chunk.index, chunk.prompt_logprobs) for chunk in chunks if chunk.prompt_logprobs is not None]
    assert told == [(0, out.prompt_logprobs)]
    assert json.loads(json.dumps(out.to_dict()))["prompt_logprobs"][1]["token_id"] == prompt(6)[1]
    assert (await cluster.generate(prompt(6), GREEDY)).prompt_logprobs is None


async def test_a_prompt_that_is_computed_whole_is_still_believed_cached(cluster: PrebleCluster) -> None:
    first = await cluster.generate(prompt(61), GREEDY)
    await cluster.generate(prompt(61), SamplingParams(max_tokens=5, temperature=0.0, prompt_logprobs=0))
    again = await cluster.generate(prompt(61), GREEDY)
    assert again.worker == first.worker
    assert cluster.explain(again.id).cached_tokens == again.usage.cached_tokens > 0


async def test_more_logprobs_of_a_prompt_than_fit_into_an_answer_are_refused(cluster: PrebleCluster) -> None:
    with pytest.raises(InvalidRequestError, match="prompt_logprobs: 2100000 entries, at most 2097152"):
        await cluster.generate([7] * 100_000, SamplingParams(max_tokens=1, prompt_logprobs=20))


async def test_many_keep_their_order_and_their_bound(slow: PrebleCluster) -> None:
    done: list[int] = []
    most = 0

    def progress(count: int) -> None:
        nonlocal most
        most = max(most, slow.stats().in_flight)
        done.append(count)

    prompts = [prompt(number, 20 + number) for number in range(12)]
    outs = await slow.generate_many(prompts, SamplingParams(max_tokens=1), concurrency=3, progress=progress)
    assert [out.usage.prompt_tokens for out in outs] == [len(ids) for ids in prompts]
    assert done == list(range(1, 13))
    assert 0 < most <= 3


async def test_many_take_one_sampling_each(cluster: PrebleCluster) -> None:
    each = [SamplingParams(max_tokens=count) for count in (1, 2, 3)]
    outs = await cluster.generate_many([prompt(7)] * 3, each)
    assert [len(out.token_ids) for out in outs] == [1, 2, 3]


async def test_the_first_error_of_many_ends_them_all(cluster: PrebleCluster) -> None:
    with pytest.raises(InvalidRequestError, match="prompt"):
        await cluster.generate_many([prompt(8), [], *([prompt(9)] * 200)], GREEDY, concurrency=4)


async def test_cancelling_the_task_frees_the_worker(slow: PrebleCluster) -> None:
    task = asyncio.create_task(slow.generate(prompt(10), SamplingParams(max_tokens=10_000)))
    await eventually(lambda: slow.stats().workers[0].running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.stats().in_flight == 0
    await eventually(lambda: slow.stats().workers[0].running == 0)


async def test_closing_a_stream_frees_the_worker(slow: PrebleCluster) -> None:
    stream = slow.stream(prompt(11), SamplingParams(max_tokens=10_000))
    await anext(stream)
    await stream.aclose()
    assert slow.stats().in_flight == 0
    await eventually(lambda: slow.stats().workers[0].running == 0)


async def test_a_stream_left_by_break_is_freed_once_it_is_forgotten(slow: PrebleCluster) -> None:
    async for _ in slow.stream(prompt(12), SamplingParams(max_tokens=10_000)):
        break
    gc.collect()
    await eventually(lambda: slow.stats().in_flight == 0)
    await eventually(lambda: slow.stats().workers[0].running == 0)


async def test_a_timeout_ends_the_request_and_nothing_else(slow: PrebleCluster) -> None:
    other = asyncio.create_task(slow.generate(prompt(14), SamplingParams(max_tokens=16)))
    with pytest.raises(DeadlineExceededError) as caught:
        await slow.generate(prompt(13), SamplingParams(max_tokens=10_000), timeout=0.1)
    assert isinstance(caught.value, TimeoutError)
    assert len((await other).token_ids) == 16
    await eventually(lambda: slow.stats().workers[0].running == 0)


async def test_a_deadline_in_the_past_sends_nothing(cluster: PrebleCluster) -> None:
    submitted = cluster.stats().counters.submitted
    with pytest.raises(DeadlineExceededError):
        await cluster.generate(prompt(15), GREEDY, deadline=asyncio.get_running_loop().time() - 1)
    assert cluster.stats().counters.submitted == submitted


async def test_urgent_requests_overtake_those_that_wait(slow: PrebleCluster) -> None:
    order: list[str] = []

    async def request(name: str, number: int, priority: int) -> None:
        await slow.generate(prompt(number), SamplingParams(max_tokens=6), priority=priority)
        order.append(name)

    busy = [asyncio.create_task(request("busy", 16 + number, 0)) for number in range(2)]
    await eventually(lambda: slow.stats().workers[0].running == 2)
    waiting = [asyncio.create_task(request("later", 20, 5)), asyncio.create_task(request("later", 21, 5))]
    await asyncio.sleep(0)
    waiting.append(asyncio.create_task(request("urgent", 22, -5)))
    await asyncio.gather(*busy, *waiting)
    assert order.index("urgent") < order.index("later")


async def test_those_that_must_end_sooner_overtake_others_of_their_priority(slow: PrebleCluster) -> None:
    order: list[str] = []

    async def request(name: str, number: int, timeout: float | None, tokens: int = 6) -> None:
        await slow.generate(prompt(number), SamplingParams(max_tokens=tokens), timeout=timeout)
        order.append(name)

    busy = [asyncio.create_task(request("busy", 40 + number, None, 40)) for number in range(2)]
    await eventually(lambda: slow.stats().workers[0].running == 2)
    waiting = [asyncio.create_task(request("any time", 42 + number, None)) for number in range(2)]
    waiting.append(asyncio.create_task(request("late", 44, 200.0)))
    waiting.append(asyncio.create_task(request("soon", 45, 100.0)))
    await asyncio.gather(*busy, *waiting)
    # Two run at a time, so those two may end in either order; both before whoever has time.
    assert set(order[2:4]) == {"soon", "late"}


async def test_stats_add_up(cluster: PrebleCluster) -> None:
    before = cluster.stats().counters
    await cluster.generate_many([prompt(30)] * 4, GREEDY, concurrency=1)
    after = cluster.stats().counters
    assert after.submitted - before.submitted == after.finished - before.finished == 4
    assert after.prompt_tokens - before.prompt_tokens == 4 * 64
    assert after.cached_tokens - before.cached_tokens == 3 * 48
    assert after.output_tokens - before.output_tokens == 4 * 8


async def test_a_placement_can_be_explained(cluster: PrebleCluster) -> None:
    await cluster.generate(prompt(31), GREEDY)
    out = await cluster.generate(prompt(31), GREEDY)
    receipt = cluster.explain(out.id)
    assert receipt.worker == out.worker
    assert receipt.reason == "exploit"
    assert receipt.predicted_cached_tokens == receipt.cached_tokens == 48
    assert receipt.ttft is not None
    assert {candidate.worker for candidate in receipt.candidates} == {"w0", "w1"}


async def test_drain_waits_and_refuses_meanwhile(slow: PrebleCluster) -> None:
    running = asyncio.create_task(slow.generate(prompt(32), SamplingParams(max_tokens=10)))
    await eventually(lambda: slow.stats().in_flight == 1)
    draining = asyncio.create_task(slow.drain())
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await slow.generate(prompt(33), GREEDY)
    await draining
    assert running.done()
    await slow.generate(prompt(33), GREEDY)


async def test_resetting_the_cache_is_believed_by_the_scheduler(cluster: PrebleCluster) -> None:
    await cluster.generate(prompt(34), GREEDY)
    await cluster.reset_cache()
    await eventually(lambda: all(worker.held_tokens == 0 for worker in cluster.stats().workers))
    assert (await cluster.generate(prompt(34), GREEDY)).usage.cached_tokens == 0


async def test_a_failing_request_harms_no_other(cluster: PrebleCluster) -> None:
    bad = cluster.generate([*prompt(35), FAILING_TOKEN], GREEDY)
    good = cluster.generate(prompt(35), GREEDY)
    failed, out = await asyncio.gather(bad, good, return_exceptions=True)
    assert isinstance(failed, EngineError)
    assert failed.worker in {"w0", "w1"}
    assert len(out.token_ids) == 8


BAD_PROMPTS = {
    "empty": ([], "must not be empty"),
    "negative id": ([5, -1], r"token id -1 is outside \[0, 32000\)"),
    "unknown id": ([32_000], r"token id 32000 is outside"),
    "not ids": (["a"], "32-bit token ids"),
    "floats": (np.array([1.5, 2.5]), "element format"),
    "two dimensions": (np.ones((2, 2), dtype=np.int32), "one-dimensional"),
    "half a token": (b"abc", "multiple of 4"),
    "a message alone": ({"role": "user", "content": "hi"}, "a message alone: pass a list"),
    "too large an id": ([1 << 40], "32-bit token ids"),
    "not a prompt": (None, "prompt"),
    "a number": (7, "prompt"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
async def test_a_bad_prompt_is_refused_by_name(cluster: PrebleCluster, case: str) -> None:
    bad, message = BAD_PROMPTS[case]
    with pytest.raises(InvalidRequestError, match=f"prompt: .*{message}|{message}") as caught:
        await cluster.generate(bad, GREEDY)
    assert caught.value.field == "prompt"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("bad", ["hello", [{"role": "user", "content": "hi"}]])
async def test_text_and_stop_strings_need_a_tokenizer(bad: Any) -> None:
    few = {"vocab_size": 200}  # too few for text
    async with PrebleCluster(backend="sim", workers=1, processes=False, engine_options=few) as cluster:
        with pytest.raises(InvalidRequestError, match=r"prompt: .*tokenizer"):
            await cluster.generate(bad, GREEDY)
        with pytest.raises(InvalidRequestError, match=r"stop: .*tokenizer"):
            await cluster.generate([5, 6], SamplingParams(stop=("x",)))


async def test_a_prompt_longer_than_the_context_is_refused(cluster: PrebleCluster) -> None:
    with pytest.raises(ContextLengthError, match="131072"):
        await cluster.generate(bytes(4 * 131_072), GREEDY)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"priority": 1 << 40}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"session": 3}, "session"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"deadline": "noon"}, "deadline"),
        ({"request_id": ""}, "request_id"),
        ({"sesion": "s"}, "sesion"),
        ({"priority": True}, "priority"),
        ({"sampling": SamplingParams(logit_bias={32_000: 1})}, "logit_bias"),
        ({"sampling": {"max_tokens": 3}}, "sampling"),
    ],
)
async def test_a_bad_option_is_refused_by_name(cluster: PrebleCluster, options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await cluster.generate(prompt(36), **options)
    assert caught.value.field == field


async def test_a_misspelt_option_is_refused_wherever_options_go(cluster: PrebleCluster) -> None:
    before = cluster.stats().counters.submitted
    for call in (cluster.generate, cluster.generate_many):
        with pytest.raises(InvalidRequestError, match=r"^sesion: unknown option, did you mean 'session'\?$"):
            await call([prompt(36)], GREEDY, sesion="s")
    with pytest.raises(InvalidRequestError, match="did you mean 'priority'"):
        cluster.stream(prompt(36), GREEDY, prioritee=1)
    assert cluster.stats().counters.submitted == before


async def test_a_request_has_the_id_that_its_caller_gave_it(cluster: PrebleCluster) -> None:
    out = await cluster.generate(prompt(37), GREEDY, request_id="job 7: é")
    chunks = [chunk async for chunk in cluster.stream(prompt(37), SamplingParams(n=2, max_tokens=3), request_id="s")]
    assert out.id == "job 7: é"
    assert {chunk.request_id for chunk in chunks} == {"s"}
    assert cluster.explain(out.id).worker == out.worker
    first = next(chunk.worker for chunk in chunks if chunk.index == 0)
    assert cluster.explain("s").worker == first
    with pytest.raises(DeadlineExceededError) as caught:
        await cluster.generate(prompt(37), GREEDY, request_id="late", deadline=0.0)
    assert caught.value.request_id == "late"


async def test_results_are_plain_data_for_json_and_pydantic(cluster: PrebleCluster) -> None:
    class Answer(pydantic.BaseModel, extra="forbid", strict=True):
        id: str
        text: str
        choices: list[dict[str, Any]]
        prompt_logprobs: list[dict[str, Any] | None] | None

    out = await cluster.generate(prompt(42), SamplingParams(n=2, max_tokens=3, logprobs=2))
    chunks = [chunk async for chunk in cluster.stream(prompt(42), GREEDY)]
    for result in (out, *chunks, cluster.stats(), cluster.explain(out.id)):
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    answer = Answer.model_validate(out.to_dict())
    assert (answer.id, answer.text, answer.choices[1]["token_ids"]) == (
        out.id,
        out.text,
        list(out.choices[1].token_ids),
    )
    assert cluster.stats().to_dict()["counters"]["finished"] > 0
    assert cluster.explain(out.id).to_dict()["candidates"][0]["worker"] == "w0"


async def test_a_stream_without_an_id_of_its_caller_s_can_be_explained(cluster: PrebleCluster) -> None:
    ids = [{chunk.request_id async for chunk in cluster.stream(prompt(38), GREEDY)} for _ in range(2)]
    (one,), (other,) = ids
    assert one != other
    assert cluster.explain(other).predicted_cached_tokens > cluster.explain(one).predicted_cached_tokens


async def test_an_id_in_flight_is_refused_and_the_request_that_has_it_goes_on(slow: PrebleCluster) -> None:
    running = asyncio.create_task(slow.generate(prompt(39), SamplingParams(max_tokens=20), request_id="a"))
    await eventually(lambda: slow.stats().in_flight == 1)
    for call in (slow.generate(prompt(39), GREEDY, request_id="a"), anext(slow.stream(prompt(39), request_id="a"))):
        with pytest.raises(InvalidRequestError, match=r"^request_id: 'a' is in flight$"):
            await call
    with pytest.raises(InvalidRequestError, match="request_id: is for one request"):
        await slow.generate_many([], request_id="b")
    assert len((await running).token_ids) == 20
    assert (await slow.generate(prompt(39), GREEDY, request_id="a")).id == "a"


async def test_the_cluster_gives_no_request_an_id_that_a_caller_has_taken(slow: PrebleCluster) -> None:
    number = int((await slow.generate(prompt(40), GREEDY)).id[1:])
    sampling = SamplingParams(max_tokens=20)
    taken = asyncio.create_task(slow.generate(prompt(40), sampling, request_id=f"r{number + 1}"))
    await eventually(lambda: slow.stats().in_flight == 1)
    assert (await slow.generate(prompt(41), GREEDY)).id == f"r{number + 2}"
    await taken


async def test_too_many_at_once_are_refused() -> None:
    async with PrebleCluster(backend="sim", workers=1, max_in_flight=3) as cluster:
        with pytest.raises(OverloadedError, match="at most 3") as caught:
            await cluster.generate(prompt(1), SamplingParams(n=4))
        assert caught.value.retryable
        await cluster.generate(prompt(1), SamplingParams(n=3, max_tokens=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "nonsense"}, "backend: unknown 'nonsense'"),
        ({"backend": "sim", "policy": "best"}, "policy: unknown 'best'"),
        ({"backend": "torch"}, "model: the torch engine needs"),
        ({"backend": "sim", "workers": 0}, "workers: must be"),
        ({"backend": "sim", "workers": 1.5}, "workers: must be"),
        ({"backend": "sim", "max_in_flight": 0}, "max_in_flight: must be"),
        ({"backend": "sim", "worker_wait": -1.0}, "worker_wait: must be"),
        ({"backend": "sim", "idle_timeout": 0}, "idle_timeout: must be"),
        ({"backend": "sim", "on_event": asyncio.sleep}, "on_event: must be"),
        ({"backend": "sim", "seed": "x"}, "seed: must be a 64-bit integer or None, not 'x'"),
        ({"backend": "sim", "seed": 1 << 63}, "seed: must be"),
    ],
)
async def test_a_wrong_description_is_refused_when_made(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PrebleCluster(**arguments)


async def test_calls_at_the_wrong_time_fail_at_once() -> None:
    cluster = PrebleCluster(backend="sim", workers=1)
    with pytest.raises(NotStartedError):
        await cluster.generate(prompt(1))
    with pytest.raises(NotStartedError):
        cluster.stream(prompt(1))
    with pytest.raises(NotStartedError):
        cluster.stats()
    await cluster.start()
    await cluster.close()
    await cluster.close()
    for call in (cluster.generate(prompt(1)), cluster.drain(), cluster.reset_cache(), cluster.start()):
        with pytest.raises(ClosedError):
            await call
    with pytest.raises(ClosedError):
        cluster.stream(prompt(1))


async def test_calls_from_another_loop_fail_at_once(cluster: PrebleCluster) -> None:
    async def call() -> None:
        await cluster.generate(prompt(1), GREEDY)

    with pytest.raises(WrongLoopError):
        await asyncio.to_thread(asyncio.run, call())


async def test_a_check_finds_what_the_scheduler_has_and_the_cluster_has_not(cluster: PrebleCluster) -> None:
    cluster.check()
    now = asyncio.get_running_loop().time()
    cluster.scheduler.submit("nobody's", [1, 2, 3], now=now)
    with pytest.raises(AssertionError, match="scheduler and samples differ"):
        cluster.check()
    cluster.scheduler.finish("nobody's", now=now)


async def test_a_policy_of_ones_own_needs_no_entry() -> None:
    async with PrebleCluster(backend="sim", workers=3, policy=First(-1)) as cluster:
        outs = await cluster.generate_many([prompt(number) for number in range(5)], GREEDY)
        assert {out.worker for out in outs} == {"w2"}


async def test_a_model_at_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert PrebleCluster("~/models/m", backend="sim").model == "/home/someone/models/m"
