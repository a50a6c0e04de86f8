from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.core.cost import PRESETS, CostModel, cost_model
from preble.core.fleet import Fleet
from preble.core.slot import Slot
from preble.errors import ConfigurationError

EXTRA_A6000 = 0.00113 * 2000 + 0.00175 * 4000 + 2.19e-6 * 2000 * 4000
EXTRA_A100 = 0.123864 - 0.000745 * 2000 + 0.00172 * 4000 + 1.36266e-6 * 2000 * 4000

PUBLISHED = [
    ("mistral-7b-a6000", 1, 1, (22 + 0.159 + 0.000186) / 0.9),
    ("mistral-7b-a6000", 191, 191, (22 + 0.159 + 0.000186 * 191) / 0.9),
    ("mistral-7b-a6000", 200, 500, (-118 + 1.25 * 200 - 0.00256 * 200**2 + 0.159 + 0.000186 * 500) / 0.9),
    ("mistral-7b-a6000", 384, 384, (0.10842571 * 384 + 4.209777 + 0.159 + 0.000186 * 384) / 0.9),
    ("mistral-7b-a6000", 2000, 4000, (0.10842571 * 2000 + 4.209777 + 0.159 + 0.000186 * 4000 + EXTRA_A6000) / 0.9),
    ("mistral-7b-a100", 63, 63, 8.96 / 0.85),
    ("mistral-7b-a100", 64, 64, 10.5 / 0.85),
    ("mistral-7b-a100", 255, 255, 10.5 / 0.85),
    ("mistral-7b-a100", 256, 256, (0.05031337 * 256 + 5.505997) / 0.85),
    ("mistral-7b-a100", 2000, 4000, (0.05031337 * 2000 + 5.505997 + EXTRA_A100) / 0.85),
    ("llama-3-70b-h100-tp2", 100, 300, 18.667307 + 0.0798791 * 100 + 0.002685316 * 300 + 7.44345e-7 * 100 * 300),
    ("llama-3-70b-a100-tp2", 100, 300, 28.931389 + 0.182233 * 100 + 0.004003651 * 300 + 2.5505e-6 * 100 * 300),
]

presets = st.sampled_from(sorted(PRESETS))
tokens = st.integers(1, 200_000)


@pytest.mark.parametrize(("preset", "new", "context", "milliseconds"), PUBLISHED)
def test_a_prefill_costs_what_was_published(preset: str, new: int, context: int, milliseconds: float):
    assert PRESETS[preset].prefill(new, context) == pytest.approx(milliseconds / 1e3)


@pytest.mark.parametrize("preset", ["mistral-7b-a6000", "mistral-7b-a100"])
def test_quadratic_attention_is_paid_from_a_megatoken_squared(preset: str):
    cost = PRESETS[preset]
    below, above = cost.prefill(1023, 1024), cost.prefill(1024, 1024)
    assert above - below > 1e-3 > cost.prefill(1023, 1024) - cost.prefill(1022, 1024)


@given(presets, tokens, tokens)
def test_nothing_is_cheaper_than_one_token(preset: str, new: int, cached: int):
    cost = PRESETS[preset]
    assert cost.prefill(new, new + cached) >= cost.prefill(1, 1) > 0


@given(presets, st.integers(384, 200_000), tokens, tokens)
def test_more_new_tokens_cost_more(preset: str, new: int, more: int, cached: int):
    cost = PRESETS[preset]
    assert cost.prefill(new + more, new + more + cached) > cost.prefill(new, new + cached)


@given(presets, tokens, tokens, tokens)
def test_a_longer_context_never_costs_less(preset: str, new: int, cached: int, more: int):
    cost = PRESETS[preset]
    assert cost.prefill(new, new + cached + more) >= cost.prefill(new, new + cached)


def test_nothing_new_costs_nothing():
    assert PRESETS["mistral-7b-a6000"].prefill(0, 500) == 0.0
    assert PRESETS["mistral-7b-a6000"].step(()) == 0.0


def test_a_decode_step_grows_with_sequences_and_their_context():
    cost = PRESETS["llama-3-70b-h100-tp2"]
    assert cost.decode(1, 1000) == pytest.approx((18.667307 + 0.0798791 + 0.002685316 * 1000) / 1e3)
    assert cost.decode(2, 1000) > cost.decode(1, 1000)
    assert cost.decode(1, 2000) > cost.decode(1, 1000)


def test_a_step_shares_its_fixed_part():
    cost = PRESETS["llama-3-70b-h100-tp2"]
    together = cost.step([(100, 100), (100, 100)], decodes=1, decode_context=100)
    apart = 2 * cost.prefill(100, 100) + cost.decode(1, 100)
    assert apart - together == pytest.approx(2 * 18.667307 / 1e3)


@given(presets, st.integers(1024, 200_000), st.integers(0, 200_000))
def test_coefficients_agree_with_large_prefills(preset: str, new: int, cached: int):
    cost, context = PRESETS[preset], new + cached
    form = cost.coefficients()
    seconds = form.base + form.new * new + form.context * context + form.product * new * context
    assert seconds == pytest.approx(cost.prefill(new, context), rel=1e-6)


@given(st.lists(presets, min_size=1, max_size=4), st.integers(1024, 50_000), st.integers(0, 50_000))
def test_a_fleet_prices_all_its_workers_as_their_models_do(names: list[str], new: int, held: int):
    fleet = Fleet(seed=0)
    for worker, name in enumerate(names):
        fleet.add(str(worker), kv_tokens=1, block_size=1, cost=PRESETS[name])
    seconds = np.broadcast_to(fleet.prefill_seconds(np.full(len(names), held), new + held), len(names))
    for slot, name in enumerate(names):
        assert seconds[slot] == pytest.approx(PRESETS[name].prefill(new, new + held), rel=1e-6)
        assert fleet.slots[slot].prefill_seconds(new, new + held) == pytest.approx(seconds[slot])


@given(presets, st.integers(1, 5000), st.integers(0, 5000), st.integers(1, 600))
def test_a_chunked_prefill_is_the_sum_of_its_steps(name: str, uncached: int, held: int, step: int):
    slot = Slot("a", 1, 1, PRESETS[name].coefficients())
    slot.max_batched_tokens = step
    chunks = [min(step, uncached - done) for done in range(0, uncached, step)]
    prices, context, seconds = slot.prices, held, 0.0
    for chunk in chunks:
        context += chunk
        seconds += prices.base + prices.new * chunk + prices.context * context + prices.product * chunk * context
    expected = seconds if len(chunks) > 1 else slot.prefill_seconds(uncached, held + uncached)
    assert slot.chunked_seconds(uncached, held + uncached) == pytest.approx(expected)
    slot.max_batched_tokens = None
    assert slot.chunked_seconds(uncached, held + uncached) == slot.prefill_seconds(uncached, held + uncached)


def test_a_fleet_prices_a_small_prefill_at_no_less_than_one_token():
    fleet, cost = Fleet(seed=0), CostModel(pieces=((0, 20.0, 0.0, 0.0), (100, 1.0, 1.0, 0.0)))
    slot = fleet.add("a", kv_tokens=1, block_size=1, cost=cost)
    assert fleet.prefill_seconds(np.array([4]), 5)[slot] == fleet.slots[slot].prefill_seconds(1, 5) == 0.02


def test_a_model_of_ones_own_is_kept_and_an_unknown_preset_refused():
    mine = CostModel(pieces=((0, 1.0, 1.0, 0.0),))
    assert cost_model(mine) is mine
    assert cost_model("small-cpu") is PRESETS["small-cpu"]
    with pytest.raises(ConfigurationError, match=r"cost: unknown preset 'abacus', one of .*small-cpu"):
        cost_model("abacus")
