"""Who costs least, found in one pass by the extension and with numpy without it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preble.core.cached import CachedTokens
from preble.core.cost import CostModel
from preble.core.fleet import Fleet
from preble.core.policies.e2 import price
from preble.core.policies.e2.future_delay import NO_DELAY, FutureDelay
from preble.core.policies.e2.policy import E2
from preble.core.policies.e2.prefill_weight import PrefillWeight
from preble.core.policies.e2.price import _price as extension
from preble.core.policy import Query
from preble.tree import RadixTree

COST = CostModel(pieces=((0, 1.0, 0.5, 0.0),), extra_product=1e-4)
SLOW = CostModel(pieces=((0, 1.0, 0.8, 0.0),))
WEIGHT = PrefillWeight(1.5, 1.0, 0.25)
LENGTH = 100
EXPECTED = (NO_DELAY, FutureDelay(0.5, 0.01), FutureDelay(20.0, 0.1))
MATCH = RadixTree().match(b"")

few = st.sampled_from([0.0, 0.01, 0.02])
"""Few values, so that many are equal."""
any_load = st.one_of(few, st.floats(0, 3), st.just(np.inf))
native = pytest.mark.skipif(extension is None, reason="no extension, no compiler: see tests/test_extensions.py")
more_than_one_example = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=[pytest.param("extension", marks=native), "numpy"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pricing with the extension, and as it is without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(price, "_price", None)
        yield


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Fleet, CachedTokens]:
    """A fleet of which at least one worker takes requests, and what its workers have of a prompt."""
    slots = draw(st.integers(1, 20))
    blocks, presets = draw(st.sampled_from([(1,), (16,), (1, 16)])), draw(st.sampled_from([(COST,), (COST, SLOW)]))
    fleet = Fleet(seed=0)
    for slot in range(slots):
        cost, block = draw(st.sampled_from(presets)), draw(st.sampled_from(blocks))
        fleet.add(f"w{slot}", kv_tokens=1000, block_size=block, cost=cost)
        fleet.load[slot] = draw(any_load)
        fleet.requests[slot] = draw(st.integers(0, 3))
        fleet.waiting[slot] = draw(st.integers(0, int(fleet.requests[slot])))
        fleet.overtakable[slot] = draw(st.one_of(few, st.floats(0, 3))) if fleet.waiting[slot] else 0.0
        fleet.free[slot] = draw(st.sampled_from([-5, 0, 50, 1000]))
        fleet.eviction_seconds_per_token[slot] = draw(few)
    fleet.load[draw(st.integers(0, slots - 1))] = draw(few)
    fleet.load += fleet.overtakable  # which is a part of it
    depths = sorted(draw(st.sets(st.integers(1, LENGTH), max_size=4)))
    mask, levels = (1 << slots) - 1, []
    for depth in depths:
        mask &= draw(st.integers(0, (1 << slots) - 1)) if draw(st.booleans()) else mask
        if mask and (not levels or levels[-1][1] != mask):
            levels.append((depth, mask))
    return fleet, fleet.cached(levels, LENGTH)


def cost_on(fleet: Fleet, slot: int, held: int, tokens: float, future_delay: FutureDelay) -> float:
    """Price one slot."""
    prefill = fleet.slots[slot].work_seconds(LENGTH - held, LENGTH)
    excess = max(0.0, tokens - held - fleet.free[slot])
    queue_delay = fleet.load[slot] - max(0.0, fleet.overtakable[slot] - fleet.waiting[slot] * prefill)
    own = float(
        queue_delay + WEIGHT.on(fleet.requests[slot]) * prefill + excess * fleet.eviction_seconds_per_token[slot]
    )
    if not future_delay.rate or own == math.inf:
        return own
    near = [math.exp((fleet.load.min() - load) / future_delay.spread) for load in fleet.load]
    taken = near[slot] / sum(near) * (1 - math.exp(-prefill / future_delay.spread))
    return own - future_delay.rate * prefill * future_delay.spread * math.log(1 - min(taken, 1 - 1e-12))


@pytest.mark.usefixtures("either_way")
@more_than_one_example
@given(fleets(), st.sampled_from([LENGTH, LENGTH + 300, -np.inf]), st.sampled_from(EXPECTED))
def test_nobody_costs_less_than_the_cheapest(case, tokens, future_delay):
    fleet, cached = case
    held = [cached.on(slot) for slot in range(len(fleet))]
    costs = [cost_on(fleet, slot, held[slot], tokens, future_delay) for slot in range(len(fleet))]
    slot, there, lightest, at_the_lightest = price.cheapest(fleet, fleet.load, cached, WEIGHT, tokens, future_delay)
    assert costs[slot] <= min(costs) * (1 + 1e-8)
    assert fleet.load[lightest] == fleet.load.min()
    assert (there, at_the_lightest) == (held[slot], held[lightest])


@pytest.mark.usefixtures("either_way")
@more_than_one_example
@given(fleets(), st.sampled_from(EXPECTED))
def test_equals_are_left_to_the_fleet_to_tell_apart(case, future_delay):
    fleet, cached = case
    held = cached.by_slot()
    slot = price.cheapest(fleet, fleet.load, cached, WEIGHT, LENGTH + 10, future_delay)[0]
    costs = np.array([cost_on(fleet, slot, held[slot], LENGTH + 10, future_delay) for slot in range(len(fleet))])
    tied = np.flatnonzero(costs <= costs.min() * (1 + 1e-9))
    most = tied[held[tied] == held[tied].max()]
    emptiest = most[fleet.free[most] == fleet.free[most].max()]
    assert slot in emptiest


@pytest.mark.usefixtures("either_way")
def test_the_eviction_price_of_the_one_ahead_can_make_another_win():
    fleet = like(2)
    query = Query(LENGTH, 0, None, 0, MATCH, fleet.cached([(50, 0b01)], LENGTH))
    assert E2().place(query, fleet, 0.0).slot == 0
    fleet.free[0], fleet.eviction_seconds_per_token[0] = 0, 1.0
    assert E2().place(query, fleet, 0.0).slot == 1


def like(workers: int) -> Fleet:
    """A fleet of equal workers, all idle."""
    fleet = Fleet(seed=0)
    for slot in range(workers):
        fleet.add(f"w{slot}", kv_tokens=1000, block_size=1, cost=COST)
    return fleet


def alone(fleet: Fleet, levels: Any, table: Any = None) -> tuple[int, int, int, int] | None:
    """What the extension says by itself."""
    rows = fleet.table if table is None else table
    return extension.cheapest(fleet.load, rows, levels, (LENGTH, 1.5, 1.0, 0.25, LENGTH, 0.0, 0.0))


@native
def test_clear_cases_need_nothing_but_the_extension():
    fleet = like(40)
    fleet.load[:] = np.arange(40) * 1e-3
    assert alone(fleet, [(10, (1 << 40) - 1), (90, 1 << 37)]) == (37, 90, 0, 10)
    fleet.load[:] = np.inf
    assert alone(fleet, []) is None, "nobody takes requests"
    assert alone(like(2), []) is None, "a tie"
    assert alone(like(1025), [(90, 1)]) is None, "more slots than it has room for"


@native
@pytest.mark.parametrize("levels", [((1, 1),), [(1,)], [None], [(1, None)], [("1", 1)], [(1, -1)], [(1, 1 << 99)]])
def test_the_extension_refuses_what_are_no_levels(levels):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        alone(like(2), levels)


@native
def test_the_extension_refuses_the_table_of_another_fleet():
    with pytest.raises(ValueError, match="table"):
        alone(like(2), [], like(3).table)
    with pytest.raises(TypeError):
        alone(like(2), [], 5)
    with pytest.raises(TypeError, match="seven numbers"):
        extension.cheapest(like(2).load, like(2).table, [], (1.0, 2.0))


@pytest.mark.parametrize("block", [1, 16, np.array([1, 16, 64])])
def test_what_one_slot_has_is_its_entry_of_all(block):
    cached = CachedTokens([(20, 0b111), (70, 0b110), (LENGTH, 0b010)], LENGTH, block, 3)
    assert [cached.on(slot) for slot in range(3)] == cached.by_slot().tolist()
