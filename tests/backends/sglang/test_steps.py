"""Which of SGLang's steps are reported, and as what: those that its counters tell apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from preble.backends.sglang.steps import Steps


class Engine:
    """Counts what SGLang would: a prefill takes 1 ms and 10 us a token, a decode step 2 ms and 1 ms a sequence."""

    def __init__(self) -> None:
        self.steps = Steps(max_prefill_tokens=64)
        self.tokens = self.microseconds = 0
        self.moments = [0.0] * 6

    def prefill(self, *tokens: int) -> None:
        for count in tokens:
            self.tokens += count
            self.microseconds += 1000 + 10 * count

    def decode(self, batch: int, times: int = 1) -> None:
        for _ in range(times):
            time = 2000 + 1000 * batch
            added = (1, batch, time, batch * batch, batch * time, batch)
            self.moments = [a + b for a, b in zip(self.moments, added, strict=True)]

    def look(self) -> list[tuple[float, ...]]:
        self.steps.look(
            SimpleNamespace(
                total_prefill_uncached_tokens=self.tokens,
                total_prefill_busy_us=self.microseconds,
                decode_moments=self.moments if self.moments[0] else None,
            )
        )
        timings = self.steps.take()
        assert all(timing.plausible for timing in timings)
        return [(t.new, t.context, t.prefill_context, t.product, t.decodes, round(t.seconds, 6)) for t in timings]

    def serve(self, id: int, prompt: int, cached: int = 0) -> None:
        self.steps.sent(id, prompt)
        self.prefill(prompt - cached)
        self.steps.came(id, 1, cached)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_a_lone_prefill_is_what_the_counters_grew_by(engine: Engine):
    engine.serve(1, 80, cached=32)
    assert engine.look() == [(48, 80, 80, 48 * 80, 0, 0.00148)]
    assert engine.look() == [], "nothing new"
    engine.steps.left(1)
    engine.serve(2, 20)
    assert engine.look() == [(20, 20, 20, 400, 0, 0.0012)]


def test_a_stream_may_be_behind_the_counters_or_ahead_of_them(engine: Engine):
    engine.steps.sent(1, 40)
    engine.prefill(40)
    assert engine.look() == []
    engine.steps.came(1, 1, 0)
    assert engine.look() == [(40, 40, 40, 1600, 0, 0.0014)]
    engine.steps.sent(2, 30)
    engine.steps.came(2, 1, 0)
    assert engine.look() == []
    engine.prefill(30)
    assert engine.look() == [(30, 30, 30, 900, 0, 0.0013)]


def test_prefills_that_came_together_or_in_chunks_are_not_reported_and_spoil_nothing(engine: Engine):
    engine.serve(1, 40)
    engine.serve(2, 30)
    assert engine.look() == []
    engine.steps.sent(3, 100)
    engine.prefill(64, 36)
    engine.steps.came(3, 1, 0)
    assert engine.look() == []
    engine.serve(4, 10)
    assert engine.look() == [(10, 10, 10, 100, 0, 0.0011)]


def test_an_aborted_prefill_is_left_behind_when_nothing_runs_or_after_a_while(engine: Engine):
    engine.steps.sent(1, 40)
    engine.prefill(40)
    engine.steps.left(1)
    assert engine.look() == []
    engine.serve(2, 10)
    assert len(engine.look()) == 1
    engine.steps.sent(3, 40)
    engine.prefill(40)
    engine.steps.left(3)
    for id in range(4, 12):
        engine.serve(id, 10)
        assert engine.look() == []
    engine.serve(12, 10)
    assert len(engine.look()) == 1


def test_decodes_of_one_batch_size_are_reported_as_their_mean(engine: Engine):
    for id, prompt in ((1, 50), (2, 30)):
        engine.serve(id, prompt)
    engine.look()
    engine.decode(2)
    assert engine.look() == [(2, 82, 0, 0, 2, 0.004)]
    engine.decode(2, times=4)
    for id in (1, 2):
        engine.steps.came(id, 4, None)
    assert engine.look() == [(2, 86, 0, 0, 2, 0.004)]


def test_decodes_of_other_batch_sizes_than_what_runs_now_are_not_reported(engine: Engine):
    engine.serve(1, 50)
    engine.serve(2, 30)
    engine.look()
    engine.decode(2)
    engine.steps.left(2)
    assert engine.look() == []
    engine.serve(3, 30)
    engine.look()
    engine.decode(1)
    engine.decode(3)
    assert engine.look() == [], "two on average, but never two"
    engine.decode(2)
    assert len(engine.look()) == 1
