from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import NoReturn

import pytest

from preble.backends import EngineRequest, StepTiming
from preble.backends.invented import ANSWER_TOKENS, END_TOKEN, FIRST_TOKEN
from preble.backends.sim import CRASH_STATUS, SimCore, SimEngine, SimOptions
from preble.core.cost import PRESETS, CostModel
from preble.errors import ConfigurationError, EngineError, InvalidRequestError
from preble.testing import VirtualTimeLoop
from preble.tokens import pack, unpack
from preble.types import SamplingParams


def request(id: int, prompt, **sampling) -> EngineRequest:
    return EngineRequest(id, pack(list(prompt)), SamplingParams(**{"temperature": 0, **sampling}))


def drive(core: SimCore, arrivals: list[tuple[float, EngineRequest]]) -> dict[int, list[tuple[float, int]]]:
    """Run in virtual time; return each request's tokens with their times."""
    told: dict[int, list[tuple[float, int]]] = {request.id: [] for _, request in arrivals}
    now, arrivals = 0.0, sorted(arrivals, key=lambda arrival: arrival[0])
    while arrivals or not core.batcher.idle:
        if core.batcher.idle:
            now = max(now, arrivals[0][0])
        while arrivals and arrivals[0][0] <= now:
            core.batcher.add(arrivals.pop(0)[1], now)
        end = core.begin(now)
        assert end is not None
        assert end > now
        now = end
        core.end(now)
        core.check()
        for key, delta in core.batcher.deltas():
            told[key] += [(now, token) for token in unpack(delta.tokens)]
    return told


def output(core: SimCore, prompt, **sampling) -> list[int]:
    return [token for _, token in drive(core, [(0.0, request(0, prompt, **sampling))])[0]]


def core(**options) -> SimCore:
    return SimCore(SimOptions(**{"kv_tokens": 4000, "vocab_size": 500, **options}))


# --- tokens ---


def test_tokens_are_deterministic_ordinary_and_varied():
    tokens = output(core(), range(10), max_tokens=200)
    assert tokens == output(core(), range(10), max_tokens=200)
    assert all(FIRST_TOKEN <= token < 500 for token in tokens)
    assert len(set(tokens)) > 100


def test_a_resumed_request_goes_on_the_same():
    whole = output(core(), range(10), max_tokens=30)
    assert output(core(), [*range(10), *whole[:11]], max_tokens=19) == whole[11:]


def test_the_next_token_depends_on_the_last_four_and_the_position():
    assert output(core(), [9, 9, 1, 2, 3, 4], max_tokens=5) == output(core(), [8, 8, 1, 2, 3, 4], max_tokens=5)
    assert output(core(), [9, 1, 2, 3, 4], max_tokens=1) != output(core(), [9, 9, 1, 2, 3, 4], max_tokens=1)
    assert output(core(), [9, 1, 2, 3, 4], max_tokens=1) != output(core(), [9, 2, 2, 3, 4], max_tokens=1)


def test_the_engine_seed_and_the_request_seed_change_tokens_but_not_greedy_ones():
    base = output(core(), range(10), max_tokens=10)
    assert output(core(seed=1), range(10), max_tokens=10) != base
    assert output(core(), range(10), max_tokens=10, temperature=1, seed=5) != base
    assert output(core(), range(10), max_tokens=10, seed=5) == base


def test_memory_pressure_changes_no_token():
    arrivals = [(0.01 * key, request(key, range(key % 4, 60), max_tokens=40)) for key in range(24)]
    tight, roomy = drive(core(kv_tokens=256), list(arrivals)), drive(core(kv_tokens=100_000), list(arrivals))
    for key, told in tight.items():
        assert [token for _, token in told] == [token for _, token in roomy[key]]
    assert max(told[-1][0] for told in tight.values()) > max(told[-1][0] for told in roomy.values())


def test_logprobs_are_given_when_asked_for():
    simulated = core()
    simulated.batcher.add(request(0, [1, 2], max_tokens=2, logprobs=3), 0.0)
    simulated.begin(0.0)
    simulated.end(1.0)
    delta = simulated.batcher.deltas()[-1][1]
    (logprob,) = delta.logprobs
    assert (logprob.token_id,) == unpack(delta.tokens)
    assert logprob.logprob < 0
    assert logprob.top[0] == (logprob.token_id, logprob.logprob)
    assert [value for _, value in logprob.top] == sorted((value for _, value in logprob.top), reverse=True)
    assert len({token for token, _ in logprob.top}) == 3


def test_without_a_seed_samples_differ_and_are_the_same_again_in_a_new_engine():
    def samples(**options) -> list[list[int]]:
        arrivals = [(0.0, request(id, range(10), max_tokens=10, temperature=1)) for id in range(8)]
        return [[token for _, token in told] for told in drive(core(**options), arrivals).values()]

    first, again, other = samples(), samples(), samples(seed=1)
    assert len({tuple(tokens) for tokens in first}) == 8
    assert first == again
    assert not {tuple(tokens) for tokens in first} & {tuple(tokens) for tokens in other}


def ended(*, max_tokens: int | None, **sampling) -> list[list[int]]:
    simulated = core(kv_tokens=40_000, context_limit=4_000)
    arrivals = [(0.0, request(id, [3, 5 + id], max_tokens=max_tokens, **sampling)) for id in range(60)]
    return [[token for _, token in told] for told in drive(simulated, arrivals).values()]


def test_what_only_the_context_bounds_ends_by_itself():
    texts = ended(max_tokens=None)
    assert {text[-1] for text in texts} == {END_TOKEN}
    assert ANSWER_TOKENS / 2 < sum(map(len, texts)) / len(texts) < ANSWER_TOKENS * 2
    assert len({len(text) for text in texts}) > 40


def test_an_end_waits_for_the_minimum_and_is_not_where_it_is_not_wanted():
    assert {len(text) for text in ended(max_tokens=900)} == {900}
    assert min(map(len, ended(max_tokens=None, min_tokens=300))) >= 300
    for sampling in ({"ignore_eos": True}, {"logit_bias": {END_TOKEN: -100}}):
        assert {len(text) for text in ended(max_tokens=None, **sampling)} == {3_998}
    assert {len(text) for text in ended(max_tokens=None, logit_bias={END_TOKEN: 100})} == {1}


def test_an_end_comes_at_the_same_place_after_a_resumption():
    simulated = core(context_limit=1_000)
    whole = output(simulated, range(10), max_tokens=None)
    assert output(core(context_limit=1_000), [*range(10), *whole[:11]], max_tokens=None) == whole[11:]
    assert len(whole) < 990


def test_a_bias_forces_and_forbids_tokens():
    assert output(core(), range(10), max_tokens=20, logit_bias={7: 100}) == [7] * 20
    plain = output(core(vocab_size=8), range(5), max_tokens=100)
    biased = output(core(vocab_size=8), range(5), max_tokens=100, logit_bias={3: -100, 4: -100})
    assert set(plain) == {3, 4, 5, 6, 7}
    assert set(biased) == {5, 6, 7}
    most = dict.fromkeys(range(3, 8), -100.0) | {6: -99.0}
    assert set(output(core(vocab_size=8), range(5), max_tokens=9, logit_bias=most)) == {6}, "all are unlikely"


def test_log_probabilities_of_a_prompt_are_made_up_for_each_of_its_tokens():
    simulated = core(max_batched_tokens=16, max_running=4, block_size=4)
    told = {}
    for id, asked in ((0, None), (1, 2), (2, 2)):
        simulated.batcher.add(request(id, range(40), max_tokens=2, prompt_logprobs=asked), 0.0)
        while not simulated.batcher.idle:
            simulated.end(simulated.begin(0.0))
        deltas = [delta for _, delta in simulated.batcher.deltas()]
        told[id] = [delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None]
    assert (told[0], told[1]) == ([], told[2])
    ((first, *rest),) = told[1]
    assert first is None
    assert [entry.token_id for entry in rest] == list(range(1, 40))
    assert {len(entry.top) for entry in rest} == {2}


def test_a_prompt_that_is_preempted_is_scored_once():
    simulated = core(kv_tokens=40, block_size=4, max_running=2, max_batched_tokens=3)
    for id, length, asked in ((0, 8, None), (1, 24, 0)):
        simulated.batcher.add(request(id, range(length), max_tokens=20, prompt_logprobs=asked), float(id))
    while not simulated.batcher.idle:
        simulated.end(simulated.begin(2.0))
    assert simulated.batcher.preemptions == 1
    deltas = [delta for id, delta in simulated.batcher.deltas() if id == 1]
    (told,) = [delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None]
    assert [entry.token_id for entry in told[1:]] == list(range(1, 24))


# --- time ---


def test_a_step_tells_what_it_computed_and_how_long_it_took():
    simulated = core()
    simulated.batcher.add(request(0, range(40), max_tokens=3), 0.0)
    assert simulated.begin(1.0) is not None
    assert simulated.end(1.5) == StepTiming(40, 40, 40, 1600, 0, 0.5)
    simulated.batcher.add(request(1, range(36), max_tokens=3), 1.5)
    simulated.begin(2.0)
    assert simulated.end(2.25) == StepTiming(1 + 4, 41 + 36, 36, 4 * 36, 1, 0.25)


def test_time_is_what_the_cost_model_says():
    cost = PRESETS["mistral-7b-a100"]
    told = drive(core(cost="mistral-7b-a100", max_batched_tokens=512), [(0.0, request(0, range(3, 450), max_tokens=3))])
    first = cost.prefill(447, 447)
    second = first + cost.decode(1, 448)
    assert [time for time, _ in told[0]] == pytest.approx([first, second, second + cost.decode(1, 449)])


def test_a_cached_prefix_makes_the_prefill_shorter():
    prompt = list(range(3, 483))
    simulated = core(max_batched_tokens=512)
    told = drive(simulated, [(0.0, request(0, prompt, max_tokens=1)), (50.0, request(1, [*prompt, 3], max_tokens=1))])
    assert told[1][0][0] - 50.0 == pytest.approx(PRESETS["mistral-7b-a6000"].prefill(1, 481))


def test_begin_with_nothing_to_do_says_so():
    assert core().begin(0.0) is None


# --- the engine ---


async def started(**options) -> SimEngine:
    engine = SimEngine(**options)
    await engine.start()
    return engine


async def read(engine: SimEngine, asked: EngineRequest) -> list[int]:
    return [token async for delta in engine.generate(asked) for token in unpack(delta.tokens)]


async def test_the_engine_serves_and_describes_itself():
    engine = SimEngine(model="name", kv_tokens=1000, block_size=16, vocab_size=500)
    info = await engine.start()
    assert (info.model, info.kv_tokens, info.block_size, info.vocab_size) == ("name", 992, 16, 500)
    assert info.reports_evictions
    assert info.discipline == "response-ratio"
    assert await read(engine, request(0, range(10), max_tokens=30)) == output(core(), range(10), max_tokens=30)
    await engine.close()


async def test_a_token_outside_the_vocabulary_is_refused():
    engine = await started(vocab_size=100)
    with pytest.raises(InvalidRequestError, match="prompt"):
        await read(engine, request(0, [100]))
    await engine.close()


async def test_200_requests_at_once_with_little_memory():
    engine = await started(kv_tokens=512, max_running=16)
    answers = await asyncio.gather(
        *(read(engine, request(key, range(key % 9 + 1), max_tokens=9)) for key in range(200))
    )
    assert answers == [output(core(vocab_size=32_000), range(key % 9 + 1), max_tokens=9) for key in range(200)]
    assert engine.load().used_tokens == 0
    engine.core.check()
    await engine.close()


async def test_a_failing_prompt_harms_no_other():
    engine = await started(fail_prompt_token=13)
    with pytest.raises(EngineError):
        await read(engine, request(0, [1, 13]))
    assert len(await read(engine, request(1, [1, 12], max_tokens=4))) == 4
    await engine.close()


async def test_a_hung_engine_gives_no_token_and_can_still_be_aborted_and_closed():
    engine = await started(hang_after=2)
    assert len(await read(engine, request(0, [1], max_tokens=4))) == 4
    task = asyncio.create_task(read(engine, request(1, [1], max_tokens=4)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done()
    engine.abort(1)
    assert await task == []
    async with asyncio.timeout(5):
        await engine.close()


def test_a_stall_is_one_pause():
    async def main() -> tuple[float, float]:
        engine, clock = await started(stall=(0, 7.0)), asyncio.get_running_loop().time
        assert len(await read(engine, request(0, [1], max_tokens=3))) == 3
        stalled = clock()
        assert len(await read(engine, request(1, [1], max_tokens=3))) == 3
        await engine.close()
        return stalled, clock() - stalled

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == (7.0, 0.0)


async def test_scaled_time_takes_at_least_its_part_of_the_models_time():
    cost = CostModel(pieces=((0, 20.0, 0.0, 0.0),))
    engine = await started(cost=cost, time_scale=0.5)
    clock = asyncio.get_running_loop().time
    begin = clock()
    await read(engine, request(0, [1], max_tokens=5))
    assert clock() - begin >= 0.5 * 5 * 0.020 - 0.005
    await engine.close()


async def test_a_slow_start_is_slow():
    clock = asyncio.get_running_loop().time
    begin = clock()
    engine = await started(start_delay=0.05)
    assert clock() - begin >= 0.045
    await engine.close()


CRASH = """
import asyncio
from preble.backends import EngineRequest
from preble.backends.sim import SimEngine
from preble.types import SamplingParams

async def main():
    engine = SimEngine(crash_after=2)
    await engine.start()
    for id in range(3):
        async for delta in engine.generate(EngineRequest(id, bytes(4), SamplingParams(max_tokens=2))):
            print(id, delta.finish_reason, flush=True)

asyncio.run(main())
"""


def test_a_crash_ends_the_process_at_the_request_it_was_told():
    crashed = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=30)
    assert crashed.returncode == CRASH_STATUS
    assert "0 length" in crashed.stdout
    assert "1 length" not in crashed.stdout


async def test_what_a_crash_ends_can_be_chosen():
    def crash(status: int) -> NoReturn:
        raise RuntimeError(f"crashed with {status}")

    engine = SimEngine(crash_after=1, crash=crash)
    await engine.start()
    with pytest.raises(EngineError, match=f"crashed with {CRASH_STATUS}"):
        await read(engine, request(0, [1], max_tokens=2))
    await engine.close()


# --- options ---


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kv_tokens": 0}, "kv_tokens"),
        ({"kv_tokens": 16}, "kv_tokens"),
        ({"block_size": "16"}, "block_size"),
        ({"time_scale": -1}, "time_scale"),
        ({"max_running": 300, "max_batched_tokens": 200}, "max_batched_tokens"),
        ({"cost": "abacus"}, "abacus"),
        ({"vocab_size": 2}, "vocab_size"),
        ({"stall": 3}, "stall"),
        ({"speed": 3}, "speed"),
        ({"crash": 3}, "crash"),
        ({"discipline": "lifo"}, "discipline"),
    ],
)
def test_a_wrong_option_is_named(options, text):
    with pytest.raises(ConfigurationError, match=text):
        SimEngine(**options)


def test_a_cost_model_can_be_given_by_its_fields():
    engine = SimEngine(cost={"pieces": [[0, 1.0, 0.0, 0.0]]})
    assert engine.core.cost == CostModel(pieces=((0, 1.0, 0.0, 0.0),))
