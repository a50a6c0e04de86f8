"""Which of vLLM's steps are reported, and as what: those that its counts and the requests inside explain."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from preble.backends.vllm.steps import Steps
from preble.core.cost import StepTiming


class Engine:
    """Tells `Steps` what vLLM would: a step takes 10 ms."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.now = 100.0

    def send(self, id: int, prompt: int) -> None:
        self.steps.sent(id, prompt, self.now)

    def step(self, prefills: int = 0, tokens: int = 0, decodes: int = 0, *, idle: bool = False, **counts: int) -> None:
        self.now += 0.01
        names = ("num_ctx_requests", "num_ctx_tokens", "num_generation_requests", "num_generation_tokens")
        details = dict(zip(names, (prefills, tokens, decodes, decodes), strict=True)) | counts
        self.steps.step(SimpleNamespace(**details), idle=idle, now=self.now)

    def taken(self) -> list[tuple[int, ...]]:
        timings = self.steps.take()
        assert all(timing.seconds == pytest.approx(0.01) and timing.plausible for timing in timings)
        return [(t.new, t.context, t.prefill_context, t.product, t.decodes) for t in timings]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def two(engine: Engine) -> Engine:
    """With two requests inside: 1 with a prompt of 50 tokens, 2 with one of 30."""
    engine.send(1, 50)
    engine.send(2, 30)
    return engine


def test_chunks_of_a_lone_prefill_are_known_when_its_first_token_comes(engine: Engine):
    engine.send(1, 100)
    engine.step(1, 40)
    engine.step(1, 28)
    assert engine.taken() == [], "how much was cached is not known yet"
    engine.steps.came(1, 1, 32)
    assert engine.taken() == [(40, 72, 72, 40 * 72, 0), (28, 100, 100, 28 * 100, 0)]
    engine.step(decodes=1)
    engine.steps.came(1, 1, None)
    engine.step(decodes=1)
    assert engine.taken() == [(1, 101, 0, 0, 1), (1, 102, 0, 0, 1)]


def test_decodes_beside_a_prefill_are_counted_with_their_context(engine: Engine):
    engine.send(1, 50)
    engine.step(1, 50)
    engine.steps.came(1, 1, 0)
    engine.send(2, 30)
    engine.step(1, 30, 1)
    engine.steps.came(1, 1, None)
    engine.steps.came(2, 1, 0)
    assert engine.taken() == [(50, 50, 50, 2500, 0), (31, 81, 30, 900, 1)]


def test_whole_prompts_in_one_step_are_reported_once(two: Engine):
    two.step(2, 70)
    two.steps.came(1, 1, 10)
    assert two.taken() == []
    two.steps.came(2, 1, 0)
    assert two.taken() == [(70, 80, 80, 40 * 50 + 30 * 30, 0)]


@pytest.mark.parametrize("tokens", [(40, 20), (60, 20)])
def test_a_prefill_whose_steps_do_not_add_up_is_not_reported(engine: Engine, tokens: tuple[int, ...]):
    engine.send(1, 100)
    for count in tokens:
        engine.step(1, count)
    engine.steps.came(1, 1, 32)
    assert engine.taken() == []


def test_prompts_whose_parts_in_a_step_are_unknown_are_not_reported(two: Engine):
    two.step(2, 60)
    two.step(1, 20)
    two.steps.came(1, 1, 0)
    two.steps.came(2, 1, 0)
    assert two.taken() == []


def test_a_request_that_waits_inside_does_not_spoil_what_follows(two: Engine):
    two.step(1, 50)
    two.steps.came(1, 1, 0)
    two.step(1, 30, 1)
    two.steps.came(2, 1, 0)
    assert two.taken() == [(31, 81, 30, 900, 1)], "only the first step could be either's"


def test_decodes_of_others_than_we_know_of_are_not_reported(engine: Engine):
    engine.step(decodes=1)
    engine.send(1, 10)
    engine.step(1, 10)
    engine.steps.came(1, 1, 0)
    engine.taken()
    engine.step(decodes=2)
    engine.step(decodes=1, num_generation_tokens=3)
    assert engine.taken() == []


def test_a_request_that_left_is_forgotten(engine: Engine):
    engine.send(1, 10)
    engine.steps.left(1)
    engine.step(1, 10)
    engine.send(2, 20)
    engine.step(1, 20)
    engine.steps.came(2, 1, 0)
    engine.steps.left(2)
    engine.step(decodes=1)
    assert engine.taken() == [(20, 20, 20, 400, 0)]


def test_time_without_work_belongs_to_no_step(engine: Engine):
    engine.send(1, 10)
    engine.step(1, 10, idle=True)
    engine.steps.came(1, 1, 0)
    engine.steps.left(1)
    engine.now += 5.0
    engine.send(2, 20)
    engine.step(1, 20)
    engine.steps.came(2, 1, 0)
    assert engine.taken() == [(10, 10, 10, 100, 0), (20, 20, 20, 400, 0)]


def test_without_counts_nothing_is_reported(engine: Engine):
    engine.send(1, 10)
    engine.steps.step(None, idle=False, now=101.0)
    engine.steps.came(1, 1, 0)
    assert engine.taken() == []


def test_the_last_256_are_kept(engine: Engine):
    engine.send(1, 10)
    engine.step(1, 10)
    engine.steps.came(1, 1, 0)
    for _ in range(300):
        engine.step(decodes=1)
    assert engine.steps.take() == [StepTiming(1, 11, 0, 0, 1, pytest.approx(0.01))] * 256
    assert engine.steps.take() == []
