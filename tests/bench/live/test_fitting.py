from __future__ import annotations

import random

import pytest

from bench.live.fitting import fitted, predicted
from preble.core.cost import CostModel, StepTiming

TRUE = CostModel(
    pieces=((0, 2.0, 0.5, 0.0), (16, 4.0, 0.07, 0.0)), attention_context=0.0005, extra_product=1.0e-5, efficiency=0.8
)


def step(cost: CostModel, source: random.Random, stretch: float = 1.0) -> StepTiming:
    decodes = source.randint(0, 8)
    prefills = [] if source.random() < 0.5 and decodes else [(source.randint(2, 512), source.randint(512, 2000))]
    context = sum(source.randint(10, 2000) for _ in range(decodes))
    new, product = decodes + sum(new for new, _ in prefills), sum(new * total for new, total in prefills)
    seconds = cost.step(prefills, decodes, context)
    own = sum(total for _, total in prefills)
    return StepTiming(new, context + own, own, product, decodes, seconds * stretch)


def steps(count: int, *stretches: float) -> list[StepTiming]:
    source = random.Random(0)
    return [step(TRUE, source, source.choice(stretches or (1.0,))) for _ in range(count)]


def shapes(cost: CostModel) -> list[float]:
    return [cost.prefill(8, 600), cost.prefill(500, 1500), cost.decode(1, 100), cost.decode(6, 9000)]


def test_a_known_model_is_found_again():
    assert shapes(fitted(steps(600))) == pytest.approx(shapes(TRUE), rel=1e-3)


def test_the_total_time_is_what_was_measured_whatever_the_noise():
    noisy = steps(600, 0.8, 0.9, 1.0, 3.0)
    cost = fitted(noisy)
    assert predicted(cost, noisy).sum() == pytest.approx(sum(timing.seconds for timing in noisy), rel=1e-3)


def test_outliers_do_not_change_what_steps_cost_relative_to_each_other():
    found, true = shapes(fitted(steps(600, *[1.0] * 19, 10.0))), shapes(TRUE)
    ratios = [a / b for a, b in zip(found, true, strict=True)]
    assert max(ratios) / min(ratios) < 1.05


def test_no_coefficient_is_negative():
    cost = fitted([StepTiming(new, 10_000 - 10 * new, 0, 0, new, 0.01 * new) for new in range(1, 60)])
    assert min(cost.attention_context, cost.extra_product, *(value for piece in cost.pieces for value in piece)) >= 0


def test_prediction_of_sums_agrees_with_the_model_of_whole_steps():
    cost = fitted(steps(600))
    timing = StepTiming(105, 1000 + 3000, 1000, 100 * 1000, 5, 0.0)
    assert predicted(cost, [timing])[0] == pytest.approx(cost.step([(100, 1000)], 5, 3000))
