"""The short way to a decision finds what pricing every worker finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.core.cached import Cached
from preble.core.cost import CostModel
from preble.core.fleet import Fleet
from preble.core.lead import lead
from preble.core.policies.e2 import E2
from preble.core.policy import Query
from preble.core.weight import Weight
from preble.tree import RadixTree

COST = CostModel(pieces=((0, 1.0, 0.5, 0.0),), extra_product=1e-4)
SLOW = CostModel(pieces=((0, 1.0, 0.8, 0.0),))
WEIGHT = Weight(1.5, 1.0, 0.25)
LENGTH = 100
MATCH = RadixTree().match(b"")

few = st.sampled_from([0.0, 0.01, 0.02])
"""Few values, so that many are equal."""
any_load = st.one_of(few, st.floats(0, 3), st.just(np.inf))


@st.composite
def fleets(draw: st.DrawFn, presets: tuple[CostModel, ...] = (COST,)) -> tuple[Fleet, Cached]:
    """A fleet of which at least one worker takes requests, and what its workers have of a prompt."""
    slots, block = draw(st.integers(1, 9)), draw(st.sampled_from([1, 16]))
    fleet = Fleet(seed=0)
    for slot in range(slots):
        cost = draw(st.sampled_from(presets))
        fleet.add(f"w{slot}", kv_tokens=1000, block_size=block, cost=cost)
        fleet.load[slot] = draw(any_load)
        fleet.requests[slot] = draw(st.integers(0, 3))
        fleet.free[slot] = draw(st.sampled_from([-5, 0, 50, 1000]))
        fleet.victim[slot] = draw(few)
    fleet.load[draw(st.integers(0, slots - 1))] = draw(few)
    depths = sorted(draw(st.sets(st.integers(1, LENGTH), max_size=4)))
    mask, levels = (1 << slots) - 1, []
    for depth in depths:
        mask &= draw(st.integers(0, (1 << slots) - 1)) if draw(st.booleans()) else mask
        if mask and (not levels or levels[-1][1] != mask):
            levels.append((depth, mask))
    return fleet, fleet.cached(levels, LENGTH)


@given(fleets(), st.sampled_from([0.0, 1e-4, 0.01]))
def test_the_lead_is_the_least_cost_and_a_bound_of_all_others(case, price):
    fleet, cached = case
    cost = fleet.load + WEIGHT.on(fleet.requests) * (price * (LENGTH - cached.by_slot()))
    slot, least, others = lead(fleet.load, fleet.requests, cached, price, WEIGHT)
    assert cost[slot] == least == cost.min()
    assert others <= np.delete(cost, slot).min(initial=np.inf)
    assert others >= least


@given(st.one_of(fleets(), fleets((COST, SLOW))), st.booleans(), st.integers(0, 300))
def test_who_is_ahead_is_the_cheapest_of_all(case, eviction, max_tokens):
    fleet, cached = case
    policy = E2(eviction=eviction)
    tokens = LENGTH + max_tokens if eviction else -np.inf
    ahead = policy._ahead(cached, fleet.token_seconds(LENGTH), WEIGHT, tokens, fleet)
    assert ahead in (-1, policy._cheapest(cached, WEIGHT, tokens, fleet))


@given(fleets())
def test_equals_are_left_to_the_fleet_to_tell_apart(case):
    fleet, cached = case
    query = Query(LENGTH, 10, None, 0, MATCH, cached)
    held = cached.by_slot()
    policy = E2()
    slot = policy.place(query, fleet, 0.0).slot
    work = policy.weigh(fleet).on(fleet.requests) * fleet.work_seconds(held, LENGTH)
    cost = fleet.load + work + fleet.eviction_seconds(held, LENGTH + 10)
    tied = np.flatnonzero(cost <= cost.min() * (1 + 1e-9))
    most = tied[held[tied] == held[tied].max()]
    emptiest = most[fleet.free[most] == fleet.free[most].max()]
    assert slot in emptiest


def test_a_clear_case_is_settled_without_pricing_everyone():
    fleet = Fleet(seed=0)
    for slot in range(4):
        fleet.add(f"w{slot}", kv_tokens=1000, block_size=1, cost=COST)
        fleet.load[slot] = 0.001 * slot
    cached = fleet.cached([(10, 0b1111), (90, 0b0100)], LENGTH)
    assert E2()._ahead(cached, fleet.token_seconds(LENGTH), WEIGHT, 200, fleet) == 2


def test_the_eviction_price_of_the_one_ahead_can_make_another_win():
    fleet = Fleet(seed=0)
    for slot in range(2):
        fleet.add(f"w{slot}", kv_tokens=1000, block_size=1, cost=COST)
    cached = fleet.cached([(50, 0b01)], LENGTH)
    query = Query(LENGTH, 0, None, 0, MATCH, cached)
    assert E2().place(query, fleet, 0.0).slot == 0
    fleet.free[0], fleet.victim[0] = 0, 1.0
    assert E2().place(query, fleet, 0.0).slot == 1


@pytest.mark.parametrize("block", [1, 16, np.array([1, 16, 64])])
def test_what_one_slot_has_is_its_entry_of_all(block):
    cached = Cached([(20, 0b111), (70, 0b110), (LENGTH, 0b010)], LENGTH, block, 3)
    assert [cached.on(slot) for slot in range(3)] == cached.by_slot().tolist()
