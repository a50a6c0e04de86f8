"""What steps cost is learned from their times, whatever the preset said."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preble.core.cost import LONGEST_STEP, PRESETS, Coefficients, CostModel, StepTiming
from preble.core.fit import Fit, Line
from preble.core.scheduler import Scheduler
from preble.core.slot import Slot

TRUE = CostModel(pieces=((0, 12.0, 0.05, 0.0),), attention_context=0.001, extra_product=5e-7)
"""A worker unlike any preset: milliseconds per step, token, token of context, and their product."""
PREFILLS = [(1, 1), (64, 64), (64, 2000), (500, 500), (1000, 3000), (2000, 2000), (2000, 8000)]
DECODES = [(1, 500), (4, 8000), (16, 16_000), (64, 64_000)]


def a_step(draw: random.Random, cost: CostModel) -> StepTiming:
    """A decode step of some sequences, or one of three times a prefill with some decodes beside it."""
    decodes = draw.randrange(1, 32)
    held = decodes * draw.randrange(100, 2000)
    if draw.random() < 2 / 3:
        return StepTiming(decodes, held, 0, 0, decodes, cost.decode(decodes, held))
    new = draw.randrange(2, 2048)
    context = new + draw.choice([0, 500, 6000])
    seconds = cost.step([(new, context)], decodes, held)
    return StepTiming(new + decodes, context + held, context, new * context, decodes, seconds)


def steps(count: int, cost: CostModel = TRUE, *, seed: int = 0) -> Iterator[StepTiming]:
    draw = random.Random(seed)
    return (a_step(draw, cost) for _ in range(count))


def slowed(timing: StepTiming, factor: float) -> StepTiming:
    return msgspec.structs.replace(timing, seconds=timing.seconds * factor)


def errors(prices: Coefficients, cost: CostModel) -> list[float]:
    """Relative errors of prices at all the sizes above."""
    prefills = [prices.prefill(*size) / cost.prefill(*size) - 1 for size in PREFILLS]
    return prefills + [prices.decode(*size) / cost.decode(*size) - 1 for size in DECODES]


AGENTS = [(64, 8_000), (500, 12_000), (500, 60_000), (2000, 30_000), (2000, 110_000), (8000, 60_000), (20_000, 20_000)]
"""Tokens uncached, and length, of coding agents' prompts."""
PUBLISHED = sorted(preset for preset in PRESETS if preset != "small-cpu")


def agents(requests: int, cost: CostModel) -> Iterator[StepTiming]:
    """Prefills of little behind long contexts, in steps of 2048 beside decodes of long contexts; then decodes."""
    draw = random.Random(0)
    for _ in range(requests):
        length = round(2 ** draw.uniform(13, 17))
        done = length - min(round(2 ** draw.uniform(3, 14)), length)
        decodes = draw.randrange(6)
        held = sum(draw.randrange(8_000, 120_000) for _ in range(decodes))
        while done < length:
            new = min(2048 - decodes, length - done)
            done += new
            seconds = cost.step([(new, done)], decodes, held)
            yield StepTiming(new + decodes, done + held, done, new * done, decodes, seconds)
        for step in range(draw.randrange(40)):
            context = length + held + step * (decodes + 1)
            yield StepTiming(decodes + 1, context, 0, 0, decodes + 1, cost.decode(decodes + 1, context))


def added(prices: Coefficients, uncached: int, length: int) -> float:
    """Seconds that such a prefill adds to the steps of a worker, as placements price it."""
    return Slot("w", 1, 1, prices).work_seconds(uncached, length)


presets = pytest.mark.parametrize("preset", sorted(PRESETS))


class TestConvergence:
    @presets
    def test_400_steps_tell_what_a_worker_costs(self, preset: str):
        fit = Fit(PRESETS[preset].coefficients())
        assert fit.observe(steps(400))
        assert max(map(abs, errors(fit.prices, TRUE))) < 0.05

    @pytest.mark.parametrize("factor", [0.001, 0.1, 10.0, 1000.0])
    def test_a_preset_may_be_wrong_by_orders_of_magnitude(self, factor: float):
        fit = Fit(PRESETS["mistral-7b-a6000"].coefficients())
        fit.observe(slowed(timing, factor) for timing in steps(800))
        true = msgspec.structs.replace(TRUE, efficiency=1 / factor)
        assert max(map(abs, errors(fit.prices, true))) < 0.1

    def test_a_flat_start_is_the_least_and_does_not_tilt_the_slope(self):
        cost = CostModel(pieces=((0, 30.0, 0.0, 0.0), (300, 0.0, 0.1, 0.0)))
        fit = Fit(PRESETS["llama-3-70b-h100-tp2"].coefficients())
        fit.observe(steps(300, cost))
        draw = random.Random(0)
        for new in (draw.randrange(2, 250) for _ in range(300)):
            fit.observe([StepTiming(new, new, new, new * new, 0, cost.prefill(new, new))])
        assert fit.prices.least == pytest.approx(0.030, rel=0.03)
        assert [fit.prices.prefill(new, new) for new in (10, 1000, 2000)] == pytest.approx([0.03, 0.1, 0.2], rel=0.03)

    def test_noise_averages_out(self):
        draw = random.Random(1)
        fit = Fit(PRESETS["mistral-7b-a6000"].coefficients())
        fit.observe(slowed(timing, draw.gauss(1.0, 0.1)) for timing in steps(800))
        assert max(map(abs, errors(fit.prices, TRUE))) < 0.1

    def test_a_tenth_of_the_steps_ten_times_as_long_changes_little(self):
        draw = random.Random(2)
        fit = Fit(PRESETS["mistral-7b-a6000"].coefficients())
        fit.observe(slowed(timing, 10.0 if draw.random() < 0.1 else 1.0) for timing in steps(800))
        assert max(map(abs, errors(fit.prices, TRUE))) < 0.1

    def test_outliers_from_the_first_step_on(self):
        fit = Fit(TRUE.coefficients())
        fit.observe(slowed(timing, 100.0 if index < 5 else 1.0) for index, timing in enumerate(steps(200)))
        assert max(map(abs, errors(fit.prices, TRUE))) < 0.1

    @pytest.mark.parametrize(
        ("true", "preset"), [(true, preset) for true in PUBLISHED for preset in PUBLISHED if true != preset]
    )
    def test_200_requests_of_long_contexts_tell_what_placements_ask(self, true: str, preset: str):
        fit, cost = Fit(PRESETS[preset].coefficients()), PRESETS[true]
        fit.observe(agents(200, cost))
        published = cost.coefficients()
        for size in AGENTS:
            assert added(fit.prices, *size) == pytest.approx(added(published, *size), rel=0.1), size
        for length in (8_000, 30_000, 110_000):
            step = cost.decode(1, length)
            assert fit.prices.decode(1, length) == pytest.approx(step, rel=0.05)
            # What one more decode adds may be next to nothing: then that is what must be learned.
            more = fit.prices.decode_new + fit.prices.decode_context * length
            true_more = published.decode_new + published.decode_context * length
            assert more == pytest.approx(true_more, rel=0.1, abs=0.01 * step)

    def test_contexts_of_decodes_do_not_hide_those_of_prefills(self):
        cost = CostModel(pieces=((0, 10.0, 0.1, 0.0),), attention_context=1e-4, extra_context=2e-3, extra_product=2e-6)
        fit = Fit(PRESETS["mistral-7b-a100"].coefficients())
        fit.observe(agents(200, cost))
        found, true = fit.prices, cost.coefficients()
        assert (found.new, found.context, found.product, found.decode_context) == pytest.approx(
            (true.new, true.context, true.product, true.decode_context), rel=0.03
        )

    def test_a_change_of_speed_shows_within_500_steps(self):
        fit = Fit(TRUE.coefficients())
        fit.observe(steps(1000))
        fit.observe(slowed(timing, 2.0) for timing in steps(500, seed=1))
        assert min(errors(fit.prices, TRUE)) > 0.15

    def test_a_worker_that_slows_down_is_followed(self):
        fit = Fit(TRUE.coefficients())
        fit.observe(steps(1000))
        fit.observe(slowed(timing, 1.5) for timing in steps(3000, seed=1))
        assert errors(fit.prices, TRUE) == pytest.approx([0.5] * len(errors(fit.prices, TRUE)), abs=0.1)


class TestCaution:
    @presets
    def test_without_evidence_the_preset_stands_to_the_bit(self, preset: str):
        prices = PRESETS[preset].coefficients()
        fit = Fit(prices)
        assert fit.prices is prices
        assert not fit.observe([])
        assert not fit.observe(steps(7))
        assert fit.prices is prices

    def test_steps_that_agree_with_the_preset_change_nothing(self):
        prices = TRUE.coefficients()
        fit = Fit(prices)
        assert not fit.observe(steps(1000))
        assert fit.prices is prices

    def test_what_is_never_seen_stays_near_the_preset(self):
        preset = PRESETS["mistral-7b-a6000"]
        fit = Fit(preset.coefficients())
        fit.observe(StepTiming(1, context, 0, 0, 1, preset.decode(1, context) * 2) for context in range(100, 1100))
        assert fit.prices.decode(1, 500) == pytest.approx(2 * preset.decode(1, 500), rel=0.05)
        assert fit.prices.prefill(2000, 2000) == pytest.approx(preset.coefficients().prefill(2000, 2000))

    def test_replaced_prices_are_new_ones_and_old_ones_stay(self):
        fit = Fit(PRESETS["mistral-7b-a6000"].coefficients())
        before = fit.prices
        assert fit.observe(steps(100))
        assert before == PRESETS["mistral-7b-a6000"].coefficients() != fit.prices

    def test_the_same_steps_give_the_same_prices_however_they_are_batched(self):
        at_once, singly = (Fit(PRESETS["small-cpu"].coefficients()) for _ in range(2))
        at_once.observe(steps(300))
        for timing in steps(300):
            singly.observe([timing])
        assert at_once.prices == singly.prices

    def test_a_broken_fit_is_found(self, monkeypatch: pytest.MonkeyPatch):
        fit = Fit(PRESETS["small-cpu"].coefficients())
        monkeypatch.setattr(Line, "_solution", lambda line: -line.values)
        fit.observe(steps(300))
        with pytest.raises(AssertionError, match="negative"):
            fit.check()


counts = st.one_of(st.integers(0, 3000), st.integers(0, (1 << 64) - 1))
timings = st.builds(StepTiming, counts, counts, counts, counts, counts, st.floats(0, LONGEST_STEP))


@settings(deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.lists(timings, max_size=60))
def test_no_times_make_a_price_negative_or_no_number(preset: str, told: list[StepTiming]):
    fit = Fit(PRESETS[preset].coefficients())
    fit.observe(told)
    fit.check()
    prices = np.array([getattr(fit.prices, name) for name in Coefficients.__struct_fields__])
    assert np.isfinite(prices).all()
    assert (prices >= 0).all()


@settings(deadline=None, max_examples=20)
@given(
    base=st.floats(1, 100),
    new=st.floats(2e-3, 2e-2),
    context=st.floats(0, 2e-4),
    product=st.floats(0, 1e-7),
    preset=st.sampled_from(sorted(PRESETS)),
)
def test_any_linear_worker_is_learned(base: float, new: float, context: float, product: float, preset: str):
    """`base` is in milliseconds, the others are shares of it. The worst of all sizes may be off by a sixth."""
    cost = CostModel(
        pieces=((0, base, new * base, 0.0),), attention_context=context * base, extra_product=product * base
    )
    fit = Fit(PRESETS[preset].coefficients())
    fit.observe(steps(600, cost))
    assert max(map(abs, errors(fit.prices, cost))) < 1 / 6


def test_steps_whose_sums_cannot_be_told_apart_leave_something_to_solve():
    fit = Fit(PRESETS["small-cpu"].coefficients())
    for exponent in (40, 50, 63):
        size = 1 << exponent
        fit.observe([StepTiming(size, size, size, size, 0, 1.0)] * 64)
    fit.check()


class TestScheduler:
    @pytest.fixture
    def scheduler(self) -> Iterator[Scheduler]:
        scheduler = Scheduler("e2")
        for worker, cost in (("a", "mistral-7b-a6000"), ("b", "mistral-7b-a100")):
            scheduler.add_worker(worker, kv_tokens=10_000, cost=cost, now=0.0)
        yield scheduler
        scheduler.check()

    def test_steps_do_not_change_prices_of_another_kind_of_worker(self, scheduler: Scheduler):
        preset = PRESETS["mistral-7b-a100"].coefficients()
        scheduler.observe("a", steps(400), now=1.0)
        assert scheduler.prices("a").prefill(1000, 1000) == pytest.approx(TRUE.prefill(1000, 1000), rel=0.05)
        assert scheduler.prices("b") == preset
        seconds = scheduler.fleet.prefill_seconds(np.zeros(2), 1000)
        assert seconds[0] == pytest.approx(TRUE.prefill(1000, 1000), rel=0.05)
        assert seconds[1] == pytest.approx(preset.prefill(1000, 1000))

    def test_the_next_placement_goes_by_them(self, scheduler: Scheduler):
        scheduler.observe("a", (slowed(timing, 20.0) for timing in steps(400)), now=1.0)
        placement = scheduler.submit("r", range(1000), now=1.0)
        assert placement.worker == "b"
        scheduler.finish("r", now=2.0)

    def test_what_was_charged_before_is_released_as_it_was(self, scheduler: Scheduler):
        scheduler.submit("r", range(1000), worker="a", now=0.0)
        charged = float(scheduler.fleet.pending[0])
        scheduler.observe("a", steps(400), now=1.0)
        scheduler.check()
        assert scheduler.fleet.pending[0] == charged
        scheduler.started("r", cached_tokens=500, now=1.0)
        scheduler.check()
        work = TRUE.prefill(1000, 1000) - TRUE.prefill(500, 1000)
        assert scheduler.fleet.pending[0] == pytest.approx(work, rel=0.1)
        scheduler.finish("r", now=2.0)
        assert scheduler.fleet.load.tolist() == [0.0, 0.0]

    def test_a_worker_that_returns_begins_with_its_preset(self, scheduler: Scheduler):
        scheduler.observe("a", steps(400), now=1.0)
        scheduler.remove_worker("a", now=2.0)
        scheduler.add_worker("a", kv_tokens=10_000, cost="small-cpu", now=3.0)
        assert scheduler.prices("a") == PRESETS["small-cpu"].coefficients()

    def test_workers_of_one_preset_believe_each_other_until_they_know(self, scheduler: Scheduler):
        scheduler.add_worker("c", kv_tokens=10_000, cost="mistral-7b-a6000", now=0.0)
        scheduler.observe("a", steps(400), now=1.0)
        scheduler.add_worker("d", kv_tokens=10_000, cost="mistral-7b-a6000", now=2.0)
        for worker in "acd":
            assert max(map(abs, errors(scheduler.prices(worker), TRUE))) < 0.05
        scheduler.observe("d", (slowed(timing, 3.0) for timing in steps(400)), now=3.0)
        assert scheduler.prices("d").prefill(1000, 1000) == pytest.approx(3 * TRUE.prefill(1000, 1000), rel=0.05)
        assert scheduler.prices("a").prefill(1000, 1000) == pytest.approx(TRUE.prefill(1000, 1000), rel=0.05)

    def test_noise_does_not_tell_equal_workers_apart(self, scheduler: Scheduler):
        """Else the one that noise made the cheapest would get all that others could serve as well."""
        for name in "cd":
            scheduler.add_worker(name, kv_tokens=10_000, cost="mistral-7b-a6000", now=0.0)
        for seed, name in enumerate("acd"):
            draw = random.Random(seed)
            noisy = [slowed(timing, draw.gauss(1.0, 0.1)) for timing in steps(400, seed=seed)]
            scheduler.observe(name, noisy, now=1.0)
        assert scheduler.prices("a") == scheduler.prices("c") == scheduler.prices("d")
        assert max(map(abs, errors(scheduler.prices("a"), TRUE))) < 0.1
        scheduler.observe("c", (slowed(timing, 1.3) for timing in steps(2000)), now=2.0)
        assert scheduler.prices("a") == scheduler.prices("d")
        assert scheduler.prices("c").prefill(1000, 1000) == pytest.approx(1.3 * TRUE.prefill(1000, 1000), rel=0.1)

    def test_a_few_decodes_do_not_bring_back_a_presets_prefill(self, scheduler: Scheduler):
        scheduler.add_worker("c", kv_tokens=10_000, cost="mistral-7b-a6000", now=0.0)
        scheduler.observe("a", steps(400), now=1.0)
        scheduler.observe("c", [StepTiming(1, 500, 0, 0, 1, TRUE.decode(1, 500))] * 40, now=1.0)
        assert scheduler.prices("c").prefill(1000, 1000) == pytest.approx(TRUE.prefill(1000, 1000), rel=0.05)

    def test_a_preset_far_too_slow_starves_nobody(self):
        scheduler = Scheduler("e2")
        for worker in "abc":
            scheduler.add_worker(worker, kv_tokens=100_000, cost="llama-3-70b-a100-tp2", now=0.0)
        scheduler.observe("a", (slowed(timing, 0.1) for timing in steps(400)), now=0.0)
        placed = {scheduler.submit(id, [id] * 1000, now=1.0).worker for id in range(3)}
        assert placed == {"a", "b", "c"}

    def test_eviction_is_priced_by_them(self, scheduler: Scheduler):
        scheduler.submit("r", [1, 2, 3, 4], worker="a", now=0.0)
        scheduler.finish("r", output=[5], now=0.0)
        scheduler.submit("s", [1, 2, 3, 4], worker="a", now=0.0)
        scheduler.finish("s", now=0.0)
        before = scheduler.fleet.eviction_seconds_per_token[0] / scheduler.prices("a").new
        scheduler.observe("a", steps(400), now=1.0)
        assert scheduler.fleet.eviction_seconds_per_token[0] / scheduler.prices("a").new == pytest.approx(before)
