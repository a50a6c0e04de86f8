"""What every engine does, whatever is behind it: the same tests over all of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from contextlib import aclosing

import pytest

from preble.core.cost import StepTiming
from preble.errors import ContextLengthError, InvalidRequestError, PrebleError
from preble.text import Tokenizer
from preble.types import SamplingParams
from tests.engines.conformance import (
    BLOCK,
    BLOCKS,
    CONTEXT,
    MAX_BATCHED,
    MAX_RUNNING,
    PATIENCE,
    VOCAB,
    Output,
    Running,
    prompt,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_it_says_what_it_can_do(engine: Running):
    info = engine.info
    assert (info.vocab_size, info.context_limit, info.block_size) == (VOCAB, CONTEXT, BLOCK)
    assert (info.kv_tokens, info.max_running) == (BLOCKS * BLOCK, MAX_RUNNING)
    if engine.case.server:
        assert (info.discipline, info.max_batched_tokens) == ("fcfs", None)
    else:
        order = engine.case.options.get("discipline", "response-ratio")
        assert (info.discipline, info.max_batched_tokens) == (order, MAX_BATCHED)
    assert info.eos_token_ids == (() if engine.case.server else (2,))


async def test_a_stream_has_as_many_tokens_as_asked_for_and_says_why_it_ended(engine: Running):
    for count in (1, 2, 40):
        output = await engine.generate(prompt(1), max_tokens=count)
        assert (len(output.tokens), output.finish, output.stop) == (count, "length", None)
        assert all(0 <= token < VOCAB for token in output.tokens)


async def test_a_prompt_is_cached_in_whole_blocks_but_for_its_last_token(engine: Running):
    for length, cached in ((100, 96), (128, 96), (129, 128), (20, 0)):
        assert (await engine.generate(prompt(length, length))).cached == 0
        assert (await engine.generate(prompt(length, length))).cached == cached


async def test_what_was_generated_is_cached_too(engine: Running):
    first = await engine.generate(prompt(1), max_tokens=80)
    assert (await engine.generate(prompt(1) + first.tokens + [9])).cached == 160


async def test_output_does_not_depend_on_the_cache_or_on_company(engine: Running):
    alone = [await engine.generate(prompt(number, 90 + number)) for number in range(6)]
    warm = [await engine.generate(prompt(number, 90 + number)) for number in range(6)]
    await engine.forget()
    together = await asyncio.gather(*(engine.generate(prompt(number, 90 + number)) for number in range(6)))
    assert [output.tokens for output in alone] == [output.tokens for output in warm]
    assert [output.tokens for output in alone] == [output.tokens for output in together]


async def test_an_output_keeps_its_form_and_leaves_its_neighbours_alone(engine: Running, model):
    if not engine.info.structures:
        pytest.skip("it takes no form of output: docs/engines.md")
    tokenizer = Tokenizer.load(model)
    free = await engine.generate(prompt(1), max_tokens=12)
    schema = {"enum": ["left", "right"]}
    forms = [{"choice": ("yes", "no")}, {"regex": "[ab]{3}"}, {"json_schema": schema}] * 2
    outputs = await asyncio.gather(
        *(engine.generate(prompt(2 + i), max_tokens=40, ignore_eos=False, **form) for i, form in enumerate(forms)),
        engine.generate(prompt(1), max_tokens=12),
    )
    yes, letters, side = ([tokenizer.decode(each.tokens) for each in outputs[i:6:3]] for i in range(3))
    assert set(yes) <= {"yes", "no"}
    assert all(len(each) == 3 and set(each) <= {"a", "b"} for each in letters)
    assert set(side) <= {'"left"', '"right"'}
    assert [each.finish for each in outputs[:6]] == ["stop"] * 6
    assert outputs[6].tokens == free.tokens
    with pytest.raises(InvalidRequestError):
        await engine.generate(prompt(1), ignore_eos=False, json_schema={"type": "many"})


async def test_prompts_that_share_a_beginning_compute_it_once(engine: Running):
    shared, numbers, first = prompt(1, 160), range(2, 8), []
    if engine.case.server == "sglang":  # what its server, without our queue, takes up in one step is computed for each
        first, numbers = [await engine.generate(shared + prompt(2, 20))], range(3, 8)
    outputs = await asyncio.gather(*(engine.generate(shared + prompt(number, 20)) for number in numbers))
    assert sorted(output.cached or 0 for output in [*first, *outputs]) == [0] + [160] * 5


async def test_salts_share_nothing(engine: Running):
    assert (await engine.probe(prompt(1), salt="red")).cached == 0
    assert (await engine.probe(prompt(1), salt="blue")).cached == 0
    assert (await engine.probe(prompt(1))).cached == 0
    assert (await engine.probe(prompt(1), salt="red")).cached == 96


async def test_a_stop_token_ends_the_stream_and_is_named(engine: Running):
    whole = (await engine.generate(prompt(3), max_tokens=20)).tokens
    position = next(index for index in range(4, 20) if whole[index] not in whole[:index])
    stopped = await engine.generate(prompt(3), max_tokens=20, stop_token_ids=(whole[position],))
    assert (stopped.tokens, stopped.finish, stopped.stop) == (whole[: position + 1], "stop", whole[position])


async def test_before_min_tokens_nothing_stops(engine: Running):
    whole = (await engine.generate(prompt(3), max_tokens=20)).tokens
    output = await engine.generate(prompt(3), max_tokens=20, min_tokens=10, stop_token_ids=(whole[2],))
    assert len(output.tokens) >= 10


async def test_the_context_ends_a_stream(engine: Running):
    output = await engine.generate(prompt(1, CONTEXT - 5), max_tokens=50)
    assert (len(output.tokens), output.finish) == (5, "length")


async def test_a_seed_fixes_what_is_drawn(engine: Running):
    drawn = {"temperature": 1.0, "max_tokens": 12}
    if engine.case.server == "sglang":
        pytest.skip("SGLang's server ignores seeds, and says nothing: docs/engines.md")
    if "seed" in engine.case.refuses:
        with pytest.raises(InvalidRequestError, match="seed"):
            await engine.generate(prompt(1), seed=7, **drawn)
        return
    first = await engine.generate(prompt(1), seed=7, **drawn)
    again = await engine.generate(prompt(1), seed=7, **drawn)
    others = [await engine.generate(prompt(1), seed=seed, **drawn) for seed in (8, -1)]
    assert first.tokens == again.tokens
    assert all(output.tokens != first.tokens for output in others)


async def test_sampling_that_leaves_one_choice_is_greedy(engine: Running):
    require_model(engine)
    greedy = await engine.generate(prompt(1))
    narrow = await engine.generate(prompt(1), temperature=1.0, top_k=1)
    tiny = await engine.generate(prompt(1), temperature=1.0, top_p=1e-6)
    assert greedy.tokens == narrow.tokens == tiny.tokens


async def test_every_sampling_parameter_is_taken(engine: Running):
    everything = {
        "temperature": 0.8,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.01,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
        "stop": ("never",),
        "min_tokens": 3,
        "seed": 1,
    }
    assert set(everything) <= set(SamplingParams.__struct_fields__)
    taken = {name: value for name, value in everything.items() if name not in engine.case.refuses}
    assert len((await engine.generate(prompt(1), **taken)).tokens) == 8


async def test_a_repetition_penalty_repeats_less(engine: Running):
    require_model(engine)
    penalty = 2.0 if engine.case.output_only else 100.0
    output = await engine.generate(prompt(1), repetition_penalty=penalty, max_tokens=30)
    assert len(set(output.tokens)) == 30
    assert engine.case.output_only or not set(output.tokens) & set(prompt(1))


async def test_logprobs_come_with_each_token(engine: Running):
    for count in (0, 3):
        output = await engine.generate(prompt(1), logprobs=count)
        assert [entry.token_id for entry in output.logprobs] == output.tokens
        for entry in output.logprobs:
            assert entry.logprob <= 0
            assert len(entry.top) == count
            assert [logprob for _, logprob in entry.top] == sorted((value for _, value in entry.top), reverse=True)
            if count:
                assert entry.top[0] == (entry.token_id, entry.logprob), "greedy: the most likely one was chosen"
    assert (await engine.generate(prompt(1))).logprobs == []


@pytest.mark.parametrize(("length", "count", "after"), [(500, 500, 0), (100, 900, 3)], ids=["in prefill", "in decode"])
async def test_an_abort_ends_the_stream_and_frees_the_engine(engine: Running, length: int, count: int, after: int):
    output = Output()
    async with aclosing(engine.stream(prompt(1, length), max_tokens=count)) as deltas:
        reading = asyncio.create_task(_read(deltas, output))

        def begun() -> bool:  # where a look takes long, its tokens may be here before a load that tells of it
            load = engine.engine.load()
            return load.running + load.waiting > 0 or bool(output.tokens)

        await engine.until(begun, "it never began")
        await engine.until(lambda: len(output.tokens) >= after, "no tokens")
        engine.engine.abort(engine.last_id)
        async with asyncio.timeout(PATIENCE):
            await reading
    assert output.finish == "abort"
    assert len(output.tokens) < count
    engine.engine.abort(engine.last_id)
    await engine.idle()
    assert (await engine.generate(prompt(2))).finish == "length"


async def test_an_abort_after_the_first_news_ends_the_stream(engine: Running):
    output = Output()
    async with aclosing(engine.stream(prompt(1), max_tokens=900)) as deltas:
        output.take(await anext(deltas))
        await asyncio.sleep(0)
        engine.engine.abort(engine.last_id)
        async with asyncio.timeout(PATIENCE):
            await _read(deltas, output)
    assert output.finish == "abort"
    assert len(output.tokens) < 900


async def test_closing_the_stream_aborts(engine: Running):
    whole = await engine.generate(prompt(1), max_tokens=900)
    await engine.forget()
    async with aclosing(engine.stream(prompt(1), max_tokens=900)) as deltas:
        while not (await anext(deltas)).tokens:
            pass
    await engine.idle()
    again = await engine.generate(prompt(1) + whole.tokens + [9])
    assert (again.cached or 0) < 992, "it was computed to its end"
    assert (await engine.generate(prompt(2))).finish == "length"


async def test_cancelling_the_reader_aborts_wherever_the_request_is(engine: Running):
    whole = await engine.generate(prompt(0), max_tokens=900)
    await engine.forget()
    tasks = [asyncio.create_task(engine.generate(prompt(n), max_tokens=900)) for n in range(3 * MAX_RUNNING)]

    def some_run_and_some_wait() -> bool:
        load = engine.engine.load()
        return load.running > 0 and load.waiting > MAX_RUNNING

    await engine.until(some_run_and_some_wait, "nothing waits")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await engine.until(lambda: engine.engine.load().waiting == 0, "something waits")
    await engine.idle()
    last, first = prompt(3 * MAX_RUNNING - 1), prompt(0) + whole.tokens + [9]
    assert not (await engine.generate(last)).cached, "what waited was computed"
    assert ((await engine.generate(first)).cached or 0) < 992, "what ran did so to its end"


async def test_aborting_what_waits_answers_at_once(engine: Running):
    tasks = [asyncio.create_task(engine.generate(prompt(n), max_tokens=900)) for n in range(3 * MAX_RUNNING)]
    await engine.until(lambda: engine.engine.load().waiting > MAX_RUNNING, "nothing waits")
    engine.engine.abort(engine.last_id)
    async with asyncio.timeout(PATIENCE):
        last = await tasks[-1]
    assert (last.finish, last.tokens, last.cached) == ("abort", [], None)
    for id in range(engine.last_id - len(tasks) + 1, engine.last_id):
        engine.engine.abort(id)
    assert {output.finish for output in await asyncio.gather(*tasks)} == {"abort"}


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        ([5, VOCAB], InvalidRequestError),
        ([5, -1], InvalidRequestError),
        ([], InvalidRequestError),
        ([5] * CONTEXT, ContextLengthError),
        ([5] * (CONTEXT + 1), ContextLengthError),
    ],
    ids=["outside the vocabulary", "negative", "empty", "no room for a token", "too long"],
)
async def test_a_prompt_that_cannot_be_served_is_refused_and_the_engine_goes_on(
    engine: Running, tokens: list[int], error: type[InvalidRequestError]
):
    if engine.case.server:
        error = InvalidRequestError  # in the server's words; a cluster checks the prompt before it asks one
    with pytest.raises(error) as caught:
        await engine.generate(tokens)
    assert engine.case.server or caught.value.field == "prompt"
    assert (await engine.generate(prompt(2))).finish == "length"


async def test_an_id_in_use_is_refused(engine: Running):
    async with aclosing(engine.stream(prompt(1), max_tokens=200)) as deltas:
        await anext(deltas)
        engine.last_id -= 1
        with pytest.raises(InvalidRequestError, match="id"):
            await engine.generate(prompt(2))


async def test_a_lower_priority_goes_first(engine: Running):
    order = await (behind_others(engine) if engine.case.server else served(engine, MAX_RUNNING + 2))
    assert max(index for index, priority in enumerate(order) if priority == -9) < order.index(9)


async def served(engine: Running, many: int) -> list[int]:
    """Send so many requests of each of three priorities at once; return these in the order of the answers."""
    order: list[int] = []

    async def ask(number: int, priority: int) -> None:
        await engine.generate(prompt(number, 200), priority=priority, max_tokens=30)
        order.append(priority)

    await asyncio.gather(*(ask(number, priority) for number, priority in enumerate([9, 0, -9] * many)))
    return order


async def behind_others(engine: Running) -> list[int]:
    """Do as `served` at a server, which starts what comes first: it is full, until all are there.

    That is tried again where the server was too quick for it.
    """
    for _ in range(5):
        if order := await behind_full(engine):
            return order
        await engine.forget()
    pytest.fail("the server was never busy for long enough")


async def behind_full(engine: Running) -> list[int] | None:
    """Return the order in which requests behind a full batch were served; None if one of the batch ended too soon."""
    load = engine.engine.load
    requests = (engine.generate(prompt(80 + number, 20), max_tokens=180) for number in range(MAX_RUNNING))
    others = list(map(asyncio.ensure_future, requests))
    await engine.until(lambda: load().running == MAX_RUNNING or ended(others), "they do not begin")
    behind = asyncio.create_task(served(engine, 4))
    await engine.until(lambda: load().waiting == 12 or ended(others), "nothing waits")
    in_time = not ended(others)
    order, *_ = await asyncio.gather(behind, *others)
    return order if in_time else None


def ended(tasks: list[asyncio.Future[Output]]) -> bool:
    return any(task.done() for task in tasks)


async def test_a_stream_begins_when_its_request_waits_no_longer(engine: Running):
    if engine.case.server:
        pytest.skip("a server tells nothing of its queue")
    inside, most = 0, 0

    async def ask(number: int) -> None:
        nonlocal inside, most
        async with aclosing(engine.stream(prompt(number, 200), max_tokens=30)) as deltas:
            first = await anext(deltas)
            assert first.admitted
            assert not first.tokens, "it began before"
            inside += 1
            most = max(most, inside)
            async for delta in deltas:
                inside -= delta.finish_reason is not None

    await asyncio.gather(*(ask(number) for number in range(3 * MAX_RUNNING)))
    assert MAX_RUNNING / 2 <= most <= MAX_RUNNING + 2, "what waits has begun"


async def test_the_events_tell_what_is_cached_block_by_block(engine: Running):
    """Seven contexts of prompts through a cache of two: every answer says whether the belief was right."""
    draw = random.Random(5)
    prefixes = [prompt(number, 32 * draw.randint(1, 8)) for number in range(6)]
    for step in range(60):
        tokens = draw.choice(prefixes) + prompt(100 + draw.randint(0, 8), draw.randint(1, 200))
        await engine.probe(tokens, max_tokens=draw.choice([1, 8, 40]), salt=draw.choice(["", "", "red"]))
        if step % 20 == 19:
            await engine.forget()
    engine.check()


async def test_after_a_crowd_nothing_is_believed_that_is_gone(engine: Running):
    """Evictions, copies and preemptions under pressure, with news and answers in the order in which they come."""

    async def ask(tokens: list[int]) -> None:
        if (
            engine.case.server
        ):  # its news may overtake its answers: a prompt counts from when it is sent, as in a cluster
            engine.believe(tokens)
        output = await engine.generate(tokens, max_tokens=40)
        engine.belief(tokens)
        if not engine.case.server:
            engine.believe(tokens + output.tokens[:-1])

    prefixes = [prompt(number, 160) for number in range(5)]
    prompts = [prefixes[number % 5] + prompt(50 + number, 60) for number in range(40)]
    await asyncio.gather(*map(ask, prompts))
    assert any(engine.belief(tokens) for tokens in prompts), "nothing at all is believed"
    for tokens in reversed(prompts):
        await engine.probe(tokens, exactly=False, max_tokens=1)


async def test_a_reset_forgets_everything_and_says_so(engine: Running):
    await engine.probe(prompt(1))
    await engine.engine.reset_cache()
    await engine.until(lambda: engine.belief(prompt(1)) == 0, "nothing was said of a reset")
    assert (await engine.probe(prompt(1))).cached == 0


async def test_a_reset_under_way_changes_no_output(engine: Running):
    wanted = await engine.generate(prompt(1), max_tokens=900)
    task = asyncio.create_task(engine.generate(prompt(1), max_tokens=900))
    await engine.until(lambda: engine.engine.load().running == 1, "it never began")
    with contextlib.suppress(*((PrebleError,) if engine.case.server else ())):  # a server may refuse, or wait
        await engine.engine.reset_cache()
    assert (await task).tokens == wanted.tokens


async def test_two_hundred_at_once_all_get_their_answer(engine: Running):
    lengths = [20 + number % 50 for number in range(200)]
    outputs = await asyncio.gather(
        *(engine.generate(prompt(n, length), max_tokens=5) for n, length in enumerate(lengths))
    )
    assert {(len(output.tokens), output.finish) for output in outputs} == {(5, "length")}
    assert engine.engine.load().waiting == 0


def require_model(engine: Running) -> None:
    if not engine.case.computes:
        pytest.skip(f"the tokens of the {engine.case.backend} engine come from no model")


async def _read(deltas: object, output: Output) -> None:
    async for delta in deltas:  # type: ignore[attr-defined]
        output.take(delta)


async def test_what_steps_computed_and_took_is_told(engine: Running):
    if engine.case.server:
        pytest.skip("a server tells nothing of its steps")
    engine.engine.timings()
    async with aclosing(engine.stream(prompt(60, 200), max_tokens=8)) as deltas:
        async for _ in deltas:
            engine.engine.load()  # as a worker asks after every step
    told: list[StepTiming] = []

    def both_kinds() -> bool:
        told.extend(engine.engine.timings())
        return {timing.decodes for timing in told} == {0, 1}

    await engine.until(both_kinds, "no prefill was told, or no decode")
    assert all(timing.plausible and timing.seconds > 0 for timing in told)
    prefills = [timing for timing in told if not timing.decodes]
    assert [(step.new, step.context, step.prefill_context, step.product) for step in prefills] == [
        (200, 200, 200, 200 * 200)
    ]
    decodes = [timing for timing in told if timing.decodes]
    assert {(step.new, step.decodes, step.prefill_context, step.product) for step in decodes} == {(1, 1, 0, 0)}
    assert all(200 < step.context <= 208 for step in decodes)


async def test_steps_of_many_are_told_as_far_as_they_are_known(engine: Running):
    if engine.case.server:
        pytest.skip("a server tells nothing of its steps")
    for round in range(3):
        prompts = [prompt(70 + 10 * round + number, 40 + 30 * number) for number in range(6)]
        await asyncio.gather(*(engine.generate(tokens, max_tokens=12) for tokens in prompts))
        told = engine.engine.timings()
        assert all(timing.plausible and timing.decodes <= MAX_RUNNING for timing in told)
        assert all(timing.new - timing.decodes <= MAX_BATCHED for timing in told)
        # SGLang's counters are looked at once here, when everything has come together.
        assert engine.case.backend == "sglang" or any(timing.decodes > 1 for timing in told)


async def test_tokens_in_use_are_told(engine: Running):
    async with aclosing(engine.stream(prompt(61, 200), max_tokens=800)) as deltas:
        async for delta in deltas:
            if delta.tokens:
                break
        await engine.until(lambda: engine.engine.load().used_tokens >= 192, "a running request uses no tokens")
