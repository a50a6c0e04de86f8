from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preble.backends import Delta, EngineRequest
from preble.backends.batching import Batcher, TokenSpan
from preble.errors import ConfigurationError, ContextLengthError, InvalidRequestError
from preble.tokens import pack, unpack
from preble.types import SamplingParams, TokenLogprob
from preble.wait_queue.local import LocalScheduler
from tests.backends.hash_model import HashModel, expected_output, make_batcher


def request(id: int, prompt, priority: int = 0, **sampling) -> EngineRequest:
    return EngineRequest(id, pack(list(prompt)), SamplingParams(**sampling), priority)


@dataclass
class Driver:
    """Steps a batcher with the hash model and keeps what each request was told."""

    batcher: Batcher
    told: dict[int, list[Delta]] = field(default_factory=dict)
    now: float = 0.0
    flight: list[TokenSpan] | None = None

    def __post_init__(self) -> None:
        self.model = HashModel(self.batcher)

    def collect(self) -> None:
        for key, delta in self.batcher.deltas():
            self.told.setdefault(key, []).append(delta)

    def add(self, *args, **kwargs) -> None:
        self.batcher.add(request(*args, **kwargs), self.now)

    def begin(self) -> list[TokenSpan]:
        self.now += 1
        assert self.now < 3000, "requests do not end"
        self.flight = self.batcher.plan(self.now)
        self.collect()
        return self.flight

    def end(self) -> None:
        self.batcher.commit(self.flight, self.model.execute(self.flight), self.now)
        self.flight = None
        self.collect()

    def step(self) -> list[TokenSpan]:
        spans = self.begin()
        self.end()
        return spans

    def finish(self) -> None:
        while not self.batcher.idle:
            assert self.step(), "work is left, and nothing is planned"
            self.batcher.check()

    def output(self, id: int) -> list[int]:
        return [token for delta in self.told[id] for token in unpack(delta.tokens)]

    def cached(self, id: int) -> int:
        return self.told[id][0].cached_tokens

    def reason(self, id: int):
        return self.told[id][-1].finish_reason


# --- everything at once ---

prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)
adds = st.tuples(st.just("add"), prompts, st.integers(1, 10), st.integers(0, 1))
operations = st.one_of(
    adds, adds, st.tuples(st.just("begin")), st.tuples(st.just("end")), st.tuples(st.just("abort"), st.integers(0, 20)),
    st.tuples(st.just("reset")),
)  # fmt: skip


def apply(driver: Driver, operation, requests: dict[int, tuple[tuple[int, ...], int]]) -> None:
    kind, *arguments = operation
    if kind == "add":
        prompt, max_tokens, priority = arguments
        requests[len(requests)] = (tuple(prompt), max_tokens)
        driver.add(len(requests) - 1, prompt, priority, max_tokens=max_tokens)
    elif kind == "begin" and driver.flight is None:
        driver.begin()
    elif kind == "end" and driver.flight is not None:
        driver.end()
    elif kind == "abort":
        driver.batcher.abort(arguments[0])
        driver.collect()
    elif kind == "reset":
        driver.batcher.reset_cache()


@given(
    st.lists(operations, max_size=40),
    st.integers(6, 16),
    st.integers(1, 4),
    st.integers(0, 12),
    st.sampled_from(["groups", "fcfs", "lpm", "shortest-prefill"]),
)
@example([("add", [0] * 10, 10, 0), ("add", [1] * 10, 10, 0)], 6, 4, 12, "fcfs")
def test_any_history_keeps_the_books_and_gives_each_request_its_own_tokens(steps, blocks, running, budget, discipline):
    driver = Driver(
        make_batcher(blocks=blocks, max_running=running, max_batched_tokens=running + budget, discipline=discipline)
    )
    requests: dict[int, tuple[tuple[int, ...], int]] = {}
    for operation in steps:
        apply(driver, operation, requests)
        driver.batcher.check()
    if driver.flight is not None:
        driver.end()
    driver.finish()
    assert driver.batcher.load().used_tokens == 0
    for key, (prompt, max_tokens) in requests.items():
        check_told(driver, key, expected_output(prompt, min(max_tokens, blocks * 4 - len(prompt))))


def check_told(driver: Driver, id: int, expected: list[int]) -> None:
    told, output = driver.told[id], driver.output(id)
    assert [delta.finish_reason is not None for delta in told] == [False] * (len(told) - 1) + [True]
    assert [delta.cached_tokens is None for delta in told[1:]] == [True] * (len(told) - 1)
    if driver.reason(id) == "abort":
        assert output == expected[: len(output)]
    else:
        assert output == expected
        assert told[0].cached_tokens is not None
        assert told[0].tokens == b""


@given(st.lists(operations, max_size=40), st.integers(6, 12))
def test_nothing_leaves_the_cache_untold(steps, blocks):
    driver = Driver(make_batcher(blocks=blocks, max_running=3))
    requests: dict[int, tuple[tuple[int, ...], int]] = {}
    believed: dict[tuple[int, ...], int] = {}
    for operation in steps:
        apply(driver, operation, requests)
        for event in driver.batcher.cache_events():
            for prompt in believed:
                if event.tokens == b"" or shared(prompt, unpack(event.tokens)) > event.keep:
                    believed[prompt] = min(believed[prompt], event.keep)
        for prompt, _ in requests.values():
            matched = driver.batcher.cache.match(pack([*prompt, 9]))
            assert matched >= believed.get(prompt, 0)
            believed[prompt] = matched


# --- cached tokens ---


@given(st.lists(st.tuples(prompts, st.integers(1, 6)), min_size=1, max_size=8))
def test_cached_tokens_are_the_true_shared_prefix_in_whole_blocks(turns):
    driver = Driver(make_batcher(blocks=200))
    computed: list[list[int]] = []
    for key, (prompt, max_tokens) in enumerate(turns):
        driver.add(key, prompt, max_tokens=max_tokens)
        driver.finish()
        blocks = max((shared(prompt, earlier) // 4 for earlier in computed), default=0)
        assert driver.cached(key) == min(blocks, (len(prompt) - 1) // 4) * 4
        computed.append(prompt + driver.output(key)[:-1])


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def test_the_output_of_one_turn_is_cached_for_the_next():
    driver = Driver(make_batcher())
    driver.add(0, range(10), max_tokens=7)
    driver.finish()
    driver.add(1, [*range(10), *driver.output(0), 5], max_tokens=1)
    driver.finish()
    assert driver.cached(1) == 16


def test_a_follower_waits_for_its_leaders_prefill_and_hits_it_while_the_leader_runs_on():
    driver = Driver(make_batcher(max_batched_tokens=16))
    driver.add(0, range(40), max_tokens=50)
    driver.add(1, [*range(39), 99], max_tokens=1)
    planned = [[span.sequence.id for span in driver.step()] for _ in range(4)]
    assert planned == [[0], [0], [0], [0, 1]]
    assert driver.cached(1) == 36
    assert driver.reason(0) is None


def test_an_aborted_prefill_leaves_its_computed_blocks_cached():
    driver = Driver(make_batcher(max_batched_tokens=16))
    driver.add(0, range(40), max_tokens=1)
    driver.step()
    driver.batcher.abort(0)
    driver.add(1, range(40), max_tokens=1)
    driver.finish()
    assert driver.cached(1) == 16


def test_reset_cache_makes_the_next_request_start_from_nothing():
    driver = Driver(make_batcher())
    driver.add(0, range(10), max_tokens=1)
    driver.finish()
    driver.batcher.reset_cache()
    driver.add(1, range(10), max_tokens=1)
    driver.finish()
    assert driver.cached(1) == 0
    assert [event.tokens for event in driver.batcher.cache_events()] == [b""]


# --- the plan ---


def test_prefills_are_chunked_to_the_budget_and_sample_once():
    driver = Driver(make_batcher(max_batched_tokens=16))
    driver.add(0, range(40), max_tokens=1)
    spans = [span for _ in range(3) for span in driver.step()]
    assert [(span.start, span.count, span.samples) for span in spans] == [
        (0, 16, False),
        (16, 16, False),
        (32, 8, True),
    ]
    assert unpack(spans[1].tokens) == tuple(range(16, 32))


def test_decodes_go_first_and_prefills_get_the_rest_of_the_budget():
    driver = Driver(make_batcher(max_batched_tokens=16))
    driver.add(0, [1], max_tokens=9)
    driver.add(1, [2], max_tokens=9)
    driver.step()
    driver.add(2, range(100, 140), max_tokens=1)
    assert [(span.sequence.id, span.count) for span in driver.step()] == [(0, 1), (1, 1), (2, 14)]


def test_a_running_prefill_goes_on_before_new_requests_are_admitted():
    driver = Driver(make_batcher(max_batched_tokens=16))
    driver.add(0, range(20), max_tokens=1)
    driver.step()
    driver.add(1, range(100, 120), max_tokens=1, priority=-1)
    assert [(span.sequence.id, span.count) for span in driver.step()] == [(0, 4), (1, 12)]


def test_admitted_prompts_share_the_budget():
    driver = Driver(make_batcher(max_batched_tokens=16))
    driver.add(0, range(12), max_tokens=1)
    driver.add(1, range(100, 112), max_tokens=1)
    driver.add(2, range(200, 212), max_tokens=1)
    assert [(span.sequence.id, span.count) for span in driver.step()] == [(0, 12), (1, 4)]
    assert [(span.sequence.id, span.count) for span in driver.step()] == [(1, 8), (2, 8)]


def test_a_block_is_spared_for_each_running_decode():
    driver = Driver(make_batcher(blocks=8))
    driver.add(0, range(8), max_tokens=8)
    driver.step()
    driver.step()
    driver.add(1, range(100, 117), max_tokens=1)
    driver.step()
    assert driver.batcher.load().waiting == 1, "its 5 blocks are all there is beside the 3 of the running one"
    driver.batcher.abort(1)
    driver.add(2, range(100, 116), max_tokens=1)
    driver.step()
    assert driver.batcher.load().waiting == 0


def test_at_most_max_running_sequences_run():
    driver = Driver(make_batcher(max_running=3))
    for key in range(5):
        driver.add(key, [key * 10, 1], max_tokens=4)
    driver.step()
    load = driver.batcher.load()
    assert (load.running, load.waiting) == (3, 2)


def test_a_lower_priority_number_is_admitted_first():
    driver = Driver(make_batcher(max_running=1))
    driver.add(0, [1], priority=1, max_tokens=1)
    driver.add(1, [2], priority=0, max_tokens=1)
    assert [span.sequence.id for span in driver.step()] == [1]


def test_the_one_that_must_end_sooner_is_admitted_first_and_none_after_its_time():
    driver = Driver(make_batcher(max_running=1))
    for id, remaining in ((0, None), (1, 50.0), (2, 20.0), (3, 1.0)):
        sampling = SamplingParams(max_tokens=1)
        driver.batcher.add(EngineRequest(id, pack([id + 1]), sampling, remaining=remaining), driver.now)
    assert [driver.step()[0].sequence.id for _ in range(3)] == [2, 1, 0]
    assert driver.step() == []
    assert driver.batcher.load().waiting == 1


def test_a_prompt_that_does_not_fit_now_waits_and_evicts_nothing():
    driver = Driver(make_batcher(blocks=16))
    driver.add(0, range(200, 213), max_tokens=1)
    driver.finish()
    driver.add(1, range(20), max_tokens=20)
    driver.step()
    driver.add(2, range(100, 150), max_tokens=1)
    driver.step()
    assert driver.batcher.load().waiting == 1
    assert driver.batcher.cache_events() == []
    driver.finish()
    assert driver.reason(2) == "length"


# --- preemption ---


def test_preemption_takes_the_latest_admitted_and_loses_no_token():
    driver = Driver(make_batcher(blocks=10))
    for key in range(3):
        driver.add(key, range(key * 10, key * 10 + 8), max_tokens=20)
    driver.step()
    first = driver.batcher.load().running
    assert first > 1
    waiting = []
    while not driver.batcher.idle:
        driver.step()
        waiting.append(driver.batcher.load().waiting)
    assert max(waiting) > 3 - first, "nothing was preempted"
    for key in range(3):
        check_told(driver, key, expected_output(tuple(range(key * 10, key * 10 + 8)), 20))


def test_a_preempted_request_keeps_its_place_before_later_arrivals():
    driver = Driver(make_batcher(blocks=8, max_running=2, discipline="fcfs"))
    driver.add(0, range(9), max_tokens=12)
    driver.add(1, range(100, 109), max_tokens=12)
    driver.step()
    driver.add(2, range(200, 203), max_tokens=1)
    while driver.batcher.load().waiting < 2:
        driver.step()
    while 0 in driver.batcher:
        driver.step()
    assert [span.sequence.id for span in driver.begin()] == [1, 2]


# --- ends ---


def outputs(count: int, prompt=range(10)) -> list[int]:
    return expected_output(tuple(prompt), count)


def run_one(batcher: Batcher, **sampling) -> Driver:
    driver = Driver(batcher)
    driver.add(0, range(10), **sampling)
    driver.finish()
    return driver


def test_a_stop_token_ends_the_request_is_part_of_the_output_and_is_named():
    third = outputs(20)[2]
    driver = run_one(make_batcher(), stop_token_ids=(third,), max_tokens=20)
    assert driver.output(0) == outputs(20)[: outputs(20).index(third) + 1]
    assert (driver.told[0][-1].finish_reason, driver.told[0][-1].stop_reason) == ("stop", third)


def test_an_end_token_ends_the_request_without_a_name_unless_ignored():
    eos = outputs(1)[0]
    driver = run_one(make_batcher(eos_token_ids=(eos,)), max_tokens=9)
    assert driver.output(0) == [eos]
    assert (driver.reason(0), driver.told[0][-1].stop_reason) == ("stop", None)
    driver = run_one(make_batcher(eos_token_ids=(eos,)), max_tokens=9, ignore_eos=True)
    assert driver.output(0) == outputs(9)
    assert driver.reason(0) == "length"


def test_no_stop_before_min_tokens():
    eos = outputs(1)[0]
    full = outputs(40)
    driver = run_one(make_batcher(eos_token_ids=(eos,)), min_tokens=5, max_tokens=40)
    assert driver.output(0) == full[: full.index(eos, 4) + 1]


def test_generation_ends_at_the_context_limit():
    driver = run_one(make_batcher(context_limit=13), max_tokens=50)
    assert driver.output(0) == outputs(3)
    assert driver.reason(0) == "length"


def test_generation_ends_where_the_whole_kv_cache_is_full():
    driver = run_one(make_batcher(blocks=4), max_tokens=50)
    assert driver.output(0) == outputs(6)
    assert driver.reason(0) == "length"


def test_logprobs_travel_with_their_token():
    batcher = make_batcher()
    batcher.add(request(0, [1], max_tokens=1, logprobs=0), 0.0)
    batcher.commit(batcher.plan(0.0), [(7, TokenLogprob(7, -0.5))], 0.0)
    assert batcher.deltas()[-1][1].logprobs == (TokenLogprob(7, -0.5),)


def test_abort_says_so_once_and_unknown_ids_are_ignored():
    driver = Driver(make_batcher())
    driver.add(0, [1, 2], max_tokens=5)
    driver.batcher.abort(0)
    driver.batcher.abort(0)
    driver.batcher.abort(77)
    driver.collect()
    assert driver.told == {0: [Delta(b"", finish_reason="abort")]}
    assert driver.batcher.idle


def test_an_abort_between_plan_and_commit_drops_the_sample_and_keeps_the_others():
    driver = Driver(make_batcher())
    driver.add(0, [1], max_tokens=3)
    driver.add(1, [2], max_tokens=3)
    driver.begin()
    driver.batcher.abort(0)
    driver.end()
    driver.batcher.check()
    driver.finish()
    assert driver.output(0) == []
    assert driver.output(1) == outputs(3, [2])


# --- refusals ---


@pytest.mark.parametrize(
    ("tokens", "error", "text"),
    [
        (b"", InvalidRequestError, "at least one token"),
        (b"abc", InvalidRequestError, "int32"),
        (pack(list(range(100))), ContextLengthError, "100 tokens, must be below 100"),
        (pack(list(range(64))), InvalidRequestError, "the KV cache holds 64"),
        (pack([1000]), InvalidRequestError, "not below 1000"),
        (b"\xff\xff\xff\xff", InvalidRequestError, "not below 1000"),
    ],
)
def test_a_prompt_that_can_never_run_is_refused(tokens, error, text):
    batcher = make_batcher(blocks=16, context_limit=100)
    with pytest.raises(error, match=text) as caught:
        batcher.add(EngineRequest(0, tokens, SamplingParams()), 0.0)
    assert caught.value.field == "prompt"
    assert batcher.idle


def test_an_id_in_use_is_refused_and_harms_nobody():
    driver = Driver(make_batcher())
    driver.add(0, [1], max_tokens=2)
    with pytest.raises(InvalidRequestError, match="id: 0"):
        driver.add(0, [2], max_tokens=2)
    driver.finish()
    assert driver.output(0) == outputs(2, [1])


@pytest.mark.parametrize(
    ("option", "value"),
    [("block_size", 0), ("blocks", 1), ("max_running", 0), ("max_batched_tokens", 7), ("context_limit", 1)],
)
def test_sizes_that_cannot_work_are_refused_by_name(option, value):
    with pytest.raises(ConfigurationError, match="kv_tokens" if option == "blocks" else option):
        make_batcher(**{option: value})


def test_check_finds_a_lost_sequence(monkeypatch):
    driver = Driver(make_batcher())
    driver.add(0, [1], max_tokens=3)
    monkeypatch.setattr(LocalScheduler, "remove", lambda *_: None)
    driver.batcher.abort(0)
    with pytest.raises(AssertionError, match="a sequence is lost"):
        driver.batcher.check()
