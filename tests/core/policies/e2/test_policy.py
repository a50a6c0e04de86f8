"""Situations small enough to price by hand: with linear workers a token is a millisecond."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preble.core.cost import CostModel
from preble.core.policies.e2.future_delay import Arrivals
from preble.core.policies.e2.policy import E2
from preble.core.scheduler import Scheduler
from preble.wait_queue.disciplines import Discipline
from tests.core.conftest import FLAT, LINEAR
from tests.policies import To

NewScheduler = Callable[..., Scheduler]

TOOL = [9] * 100


def prepare(scheduler: Scheduler, worker: str, id: object, tokens: list[int], *, served: bool) -> None:
    policy, scheduler.policy = scheduler.policy, To(scheduler.fleet.slot(worker))
    scheduler.submit(id, tokens, max_tokens=0, now=0.0)
    if served:
        scheduler.first_token(id, now=0.0)
        scheduler.finish(id, now=0.0)
    scheduler.policy = policy


def place(scheduler: Scheduler, tokens: list[int], max_tokens: int = 0) -> str:
    return scheduler.submit("asked", tokens, max_tokens=max_tokens, now=0.0).worker


def test_it_waits_for_a_cached_prefix_as_long_as_recomputing_is_dearer(new_scheduler: NewScheduler):
    """100 tokens uncached elsewhere weigh 2.5 x 0.1 s; a queue of 200 tokens is 0.2 s, one of 300 is 0.3 s."""
    scheduler = new_scheduler(policy=E2(**FLAT))
    prepare(scheduler, "a", 1, TOOL, served=True)
    prepare(scheduler, "a", 2, [1] * 200, served=False)
    assert place(scheduler, [*TOOL, 5]) == "a"
    assert scheduler.explain("asked").reason == "exploit"


def test_it_leaves_a_cached_prefix_when_the_queue_there_is_longer(new_scheduler: NewScheduler):
    scheduler = new_scheduler(policy=E2(**FLAT))
    prepare(scheduler, "a", 1, TOOL, served=True)
    prepare(scheduler, "a", 2, [1] * 300, served=False)
    assert place(scheduler, [*TOOL, 5]) == "b"
    assert scheduler.explain("asked").reason == "explore"


def test_the_weight_of_recomputing_is_a_parameter(new_scheduler: NewScheduler):
    for weight, worker in ((2.5, "b"), (4.0, "a")):
        scheduler = new_scheduler(policy=E2(**FLAT | {"weight": weight}))
        prepare(scheduler, "a", 1, TOOL, served=True)
        prepare(scheduler, "a", 2, [1] * 300, served=False)
        assert place(scheduler, [*TOOL, 5]) == worker


def test_outstanding_decodes_count_as_load(scheduler: Scheduler):
    """An output of 64 tokens is expected while none has been seen; half of its time counts."""
    scheduler.policy = To(0)
    scheduler.submit(1, [1], max_tokens=1000, now=0.0)
    scheduler.first_token(1, now=0.0)
    scheduler.policy = E2()
    prepare(scheduler, "b", 2, [2] * 30, served=False)
    assert place(scheduler, TOOL) == "b"
    load = {candidate.worker: candidate.load for candidate in scheduler.explain("asked").candidates}
    assert load == {"a": pytest.approx(0.032), "b": pytest.approx(0.030)}


def test_a_prefix_in_flight_is_worth_as_much_as_one_that_is_computed(scheduler: Scheduler):
    prepare(scheduler, "a", 1, [*TOOL, 1], served=False)
    assert place(scheduler, [*TOOL, 2]) == "a"


def test_a_short_common_prefix_is_exploring(scheduler: Scheduler):
    prepare(scheduler, "a", 1, [9] * 10, served=True)
    assert place(scheduler, [9] * 10 + [1] * 100) == "a"
    assert scheduler.explain("asked").reason == "explore"


def test_a_faster_worker_gets_the_work():
    scheduler = Scheduler(E2(**FLAT))
    for worker, milliseconds in (("slow", 4.0), ("fast", 1.0)):
        cost = CostModel(pieces=((0, 0.0, milliseconds, 0.0),))
        scheduler.add_worker(worker, kv_tokens=1000, cost=cost, now=0.0)
    placed = [scheduler.submit(id, [id] * 100, max_tokens=0, now=0.0).worker for id in range(9)]
    assert placed == ["fast"] * 8 + ["slow"], "the ninth: 0.8 + 2.5 x 0.1 s there, 2.5 x 0.4 s here"
    prefill = {candidate.worker: candidate.prefill for candidate in scheduler.explain(0).candidates}
    assert prefill == {"slow": pytest.approx(0.4), "fast": pytest.approx(0.1)}
    scheduler.check()


def test_a_slow_holder_is_worth_less_than_a_fast_stranger():
    scheduler = Scheduler()
    for worker, milliseconds in (("slow", 100.0), ("fast", 1.0)):
        cost = CostModel(pieces=((0, 0.0, milliseconds, 0.0),))
        scheduler.add_worker(worker, kv_tokens=1000, cost=cost, now=0.0)
    prepare(scheduler, "slow", 1, TOOL, served=True)
    assert place(scheduler, [*TOOL, 1, 1, 1]) == "fast"


def fill(scheduler: Scheduler, worker: str, *, reused: bool) -> None:
    """Bring a worker's cache of 1000 tokens to the brim, with prompts that are asked for again, or never."""
    for turn in range(40):
        token = 10 + (turn % 10 if reused else turn)
        prepare(scheduler, worker, (worker, turn), [token] * 100, served=True)


def test_a_full_worker_whose_cache_is_reused_is_spared(new_scheduler: NewScheduler):
    """A new prompt goes to the worker with nothing to lose, though it has work to do and the other none."""
    scheduler = new_scheduler(policy=E2(**FLAT))
    fill(scheduler, "a", reused=True)
    prepare(scheduler, "b", 1, [1] * 30, served=False)
    assert place(scheduler, TOOL) == "b"
    eviction = {candidate.worker: candidate.eviction for candidate in scheduler.explain("asked").candidates}
    assert eviction["b"] == 0.0
    assert 0.03 < eviction["a"] < 0.1


def test_a_full_cache_that_nobody_asks_for_again_is_free_to_evict(new_scheduler: NewScheduler):
    scheduler = new_scheduler()
    fill(scheduler, "a", reused=False)
    prepare(scheduler, "b", 1, [1] * 30, served=False)
    assert place(scheduler, TOOL) == "a"


@pytest.mark.parametrize(("prompt", "output", "too_much"), [(100, 0, 0), (150, 0, 50), (100, 50, 50), (250, 0, 150)])
def test_only_what_does_not_fit_is_evicted(new_scheduler: NewScheduler, prompt: int, output: int, too_much: int):
    """A victim costs its recomputation times the reuse seen: none for 10 prompts, then 99 % for 30."""
    scheduler = new_scheduler("a", kv_tokens=1100)
    fill(scheduler, "a", reused=True)
    place(scheduler, [1] * prompt, output)
    (candidate,) = scheduler.explain("asked").candidates
    reuse = 0.99 * (1 - 0.95**30)
    assert candidate.eviction == pytest.approx(too_much * 0.001 * reuse)


def test_the_larger_cache_has_room_for_longer(new_scheduler: NewScheduler):
    scheduler = Scheduler()
    for worker, kv_tokens in (("small", 500), ("large", 5000)):
        scheduler.add_worker(worker, kv_tokens=kv_tokens, cost=LINEAR, now=0.0)
        for turn in range(40):
            prepare(scheduler, worker, (worker, turn), [10 + turn % 5] * 100, served=True)
    assert place(scheduler, TOOL) == "large"


def test_equal_costs_go_to_the_emptiest_cache(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc")
    prepare(scheduler, "a", 1, [1] * 50, served=True)
    prepare(scheduler, "c", 2, [2] * 20, served=True)
    assert place(scheduler, TOOL) == "b"


def test_equal_costs_and_caches_are_drawn_by_seed():
    def first(seed: int) -> str:
        scheduler = Scheduler(seed=seed)
        for worker in "abcd":
            scheduler.add_worker(worker, kv_tokens=1000, cost=LINEAR, now=0.0)
        return place(scheduler, TOOL)

    assert {first(seed) for seed in range(40)} == set("abcd")
    assert len({first(7) for _ in range(5)}) == 1


def test_equal_costs_go_first_to_who_has_more_cached():
    """A cost model with a floor prices a small rest like a smaller one."""
    scheduler = Scheduler()
    for worker in "ab":
        scheduler.add_worker(worker, kv_tokens=1000, cost=CostModel(pieces=((0, 1000.0, 0.0, 0.0),)), now=0.0)
    prepare(scheduler, "a", 1, [9] * 50, served=True)
    prepare(scheduler, "b", 2, [9] * 40, served=True)
    assert place(scheduler, [9] * 60) == "a"


def test_placing_does_not_change_the_fleet(scheduler: Scheduler):
    """The terms in a receipt are those of the decision, not of now."""
    place(scheduler, TOOL)
    assert {candidate.load for candidate in scheduler.explain("asked").candidates} == {0.0}


def test_a_shared_prefix_spreads_under_load(new_scheduler: NewScheduler):
    """No pile-up: requests that share a short prefix and have long outputs end on all workers."""
    scheduler = new_scheduler("abcd", kv_tokens=100_000)
    prepare(scheduler, "a", "warm", TOOL, served=True)
    placed = [scheduler.submit(id, TOOL + [id] * 20, max_tokens=200, now=0.0).worker for id in range(100, 140)]
    assert set(placed) == set("abcd")
    assert max(placed.count(worker) for worker in "abcd") <= 16


def weights(scheduler: Scheduler) -> dict[str, float | None]:
    """How often a miss counted on each worker for the last request asked."""
    return {candidate.worker: candidate.weight for candidate in scheduler.explain("asked").candidates}


def test_a_miss_counts_once_on_an_idle_worker_of_an_idle_fleet(scheduler: Scheduler):
    place(scheduler, TOOL)
    assert weights(scheduler) == {"a": 1.0, "b": 1.0}


def test_a_miss_counts_more_on_a_busy_worker_and_for_each_request_there(new_scheduler: NewScheduler):
    """Two requests on `a`, with half of the workers busy for as long as the policy looks back: 1/32 of a request."""
    scheduler = new_scheduler(policy=E2(weight=1.0, busy=1.0, beside=0.2, delay=0.1))
    for id in (1, 2):
        prepare(scheduler, "a", id, [id] * 50, served=False)
    place(scheduler, TOOL)
    idle = 1.0 + 0.5 / 32 + 0.1 * 2 / 2
    assert weights(scheduler) == {"a": pytest.approx(idle + 1.0 + 0.2 * 2), "b": pytest.approx(idle)}


def test_a_fleet_that_was_busy_for_long_makes_misses_dearer(scheduler: Scheduler):
    for id in range(300):
        scheduler.submit(id, [id], max_tokens=0, now=0.0)
    for id in range(300):
        scheduler.finish(id, now=0.0)
    place(scheduler, TOOL)
    assert weights(scheduler) == {"a": pytest.approx(2.0, abs=0.05), "b": pytest.approx(2.0, abs=0.05)}


def test_of_many_workers_all_are_busy_at_once_less_often(new_scheduler: NewScheduler):
    """Six of eight are busy, and twelve of sixteen, which are two groups of eight: 0.75 and 0.75 squared."""
    for workers, dearer in (("abcdefgh", 0.75), ("abcdefghijklmnop", 0.75**2)):
        scheduler = new_scheduler(workers, policy=E2(**FLAT | {"weight": 1.0, "busy": 1.0}))
        for worker in workers[: len(workers) * 3 // 4]:
            prepare(scheduler, worker, worker, [1], served=False)
        for id in range(300):
            scheduler.submit(f"brief {id}", [id], max_tokens=0, now=0.0)
            scheduler.finish(f"brief {id}", now=0.0)
        place(scheduler, TOOL)
        assert weights(scheduler)[workers[-1]] == pytest.approx(1.0 + dearer, abs=0.01)


def test_the_more_requests_run_the_more_a_miss_costs(scheduler: Scheduler):
    """A miss elsewhere is 0.1 s, and 0.15 s of prefill wait on the holder."""
    prepare(scheduler, "a", 1, TOOL, served=True)
    prepare(scheduler, "a", 2, [2] * 150, served=False)
    assert place(scheduler, [*TOOL, 5]) == "b"
    scheduler.finish("asked", now=0.0)
    prepare(scheduler, "b", 3, [0], served=False)
    scheduler.first_token(3, now=0.0)
    assert place(scheduler, [*TOOL, 6]) == "a"


def after_a_minute(scheduler: Scheduler) -> float:
    """Ten requests a second of 150 tokens, which keep two workers busy for three quarters of the time; all are done."""
    for id in range(600):
        scheduler.submit(id, [1000 + id] * 150, max_tokens=0, now=id / 10)
        scheduler.finish(id, now=id / 10)
    return 60.0


@pytest.mark.parametrize(("future_delay", "worker"), [(True, "a"), (False, "b")])
def test_a_long_prompt_waits_for_another_and_leaves_the_light_worker_to_those_who_come(
    new_scheduler: NewScheduler, future_delay: bool, worker: str
):
    """It would wait a second for it; the others, ten a second for two seconds, up to a second each for the long one."""
    scheduler = new_scheduler(policy=E2(future_delay=future_delay), kv_tokens=1_000_000)
    now = after_a_minute(scheduler)
    scheduler.submit("long", [1] * 1000, max_tokens=0, worker="a", now=now)
    assert scheduler.submit("short", [2] * 30, max_tokens=0, now=now).worker == "b"
    scheduler.finish("short", now=now)
    assert scheduler.submit("asked", [3] * 2000, max_tokens=0, now=now).worker == worker


def test_a_receipt_sums_up_to_the_choice(new_scheduler: NewScheduler):
    scheduler = new_scheduler("abc", kv_tokens=1_000_000)
    now = after_a_minute(scheduler)
    for id in range(50):
        chosen = scheduler.submit(("asked", id), [id % 7] * (100 * id + 1), max_tokens=9, now=now).worker
        costs = {}
        for on in scheduler.explain(("asked", id)).candidates:
            assert on.future_delay > 0
            costs[on.worker] = on.load + on.weight * on.prefill + on.eviction + on.future_delay
        assert costs[chosen] == pytest.approx(min(costs.values()))


@pytest.mark.parametrize(("discipline", "worker"), [("response-ratio", "a"), ("shortest-prefill", "a"), ("fcfs", "b")])
def test_where_short_ones_go_first_a_long_one_that_waits_keeps_no_short_one_away(
    new_scheduler: NewScheduler, discipline: Discipline, worker: str
):
    """The holder has 0.5 s to do that wait; elsewhere, 0.1 s are being done and 0.1 s would be computed again."""
    scheduler = new_scheduler(discipline=discipline)
    prepare(scheduler, "a", 1, TOOL, served=True)
    prepare(scheduler, "a", 0, [0], served=False)
    prepare(scheduler, "a", 2, [2] * 500, served=False)
    prepare(scheduler, "b", 3, [3] * 100, served=False)
    scheduler.started(3, cached_tokens=0, now=0.0)
    assert place(scheduler, [*TOOL, 5]) == worker


def test_what_has_started_is_not_passed(new_scheduler: NewScheduler):
    scheduler = new_scheduler(discipline="response-ratio")
    prepare(scheduler, "a", 1, TOOL, served=True)
    prepare(scheduler, "a", 2, [2] * 500, served=False)
    scheduler.started(2, cached_tokens=0, now=0.0)
    prepare(scheduler, "b", 3, [3] * 100, served=False)
    assert place(scheduler, [*TOOL, 5]) == "b"


def test_of_those_that_wait_at_most_ones_own_prefill_for_each_counts(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a", policy=E2(decode=False), kv_tokens=10_000, discipline="response-ratio")
    for id, length in enumerate((1, 500, 300, 10)):
        scheduler.submit(id, [id] * length, max_tokens=0, now=0.0)
    scheduler.started(0, cached_tokens=0, now=0.0)
    for length, counted in ((50, 0.001 + 3 * 0.05), (1000, 0.811)):
        scheduler.submit(length, [7] * length, max_tokens=0, now=0.0)
        (on_a,) = scheduler.explain(length).candidates
        assert on_a.load == pytest.approx(counted)
        scheduler.finish(length, now=0.0)


def test_short_ones_that_pass_a_long_one_pay_for_no_copy(new_scheduler: NewScheduler):
    """Who waits a millisecond at the holder of a prefix could not have avoided much elsewhere."""
    scheduler = new_scheduler(kv_tokens=100_000, discipline="response-ratio")
    shared = [9] * 600
    prepare(scheduler, "a", "holds", shared, served=True)
    prepare(scheduler, "a", "runs", [0], served=False)
    prepare(scheduler, "a", "long", [1] * 10_000, served=False)
    for id in range(20):
        assert scheduler.submit(id, [*shared, id], max_tokens=0, now=0.0).worker == "a"
        scheduler.finish(id, now=0.0)
    assert scheduler.copies(now=0.0) == []


def test_a_part_of_the_fleet_has_its_own_queues(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a", kv_tokens=1_000_000, namespaces=["x"], discipline="response-ratio")
    scheduler.add_worker("b", kv_tokens=1_000_000, cost=LINEAR, namespaces=["y"], now=0.0)
    assert [scheduler.fleet.serving(name).short_first for name in "xy"] == [True, False]
    assert not scheduler.fleet.short_first


def test_where_short_ones_go_first_nobody_is_expected_to_wait_for_a_long_one(new_scheduler: NewScheduler):
    scheduler = new_scheduler(kv_tokens=1_000_000, discipline="response-ratio")
    now = after_a_minute(scheduler)
    scheduler.submit("long", [1] * 1000, max_tokens=0, now=now)
    assert [on.future_delay for on in scheduler.explain("long").candidates] == [0.0, 0.0]


def test_those_who_come_later_find_only_the_workers_that_serve_them(new_scheduler: NewScheduler):
    scheduler, arrivals = new_scheduler("a", kv_tokens=1_000_000), Arrivals()
    scheduler.add_worker("other", kv_tokens=1_000_000, cost=LINEAR, namespaces=["other"], now=0.0)
    now = after_a_minute(scheduler)
    for id in range(600):
        arrivals.came(0.15, id / 10)
    rate = arrivals.future_delay(1, 2, now).rate
    scheduler.submit("asked", [3] * 200, max_tokens=0, now=now)
    (on_a,) = scheduler.explain("asked").candidates
    assert on_a.future_delay == pytest.approx(rate * 0.2 * 0.2), "all wait: there is no other worker for them"


# --- each part can be switched off ---


@pytest.mark.parametrize(("decode", "worker"), [(True, "b"), (False, "a")])
def test_without_decodes_only_prefills_are_load(new_scheduler: NewScheduler, decode: bool, worker: str):
    scheduler = new_scheduler(policy=E2(decode=decode))
    prepare(scheduler, "a", 1, TOOL, served=True)
    for id in range(2, 22):
        scheduler.policy = To(0)
        scheduler.submit(id, [id], max_tokens=1000, now=0.0)
        scheduler.first_token(id, now=0.0)
    scheduler.policy = E2(decode=decode)
    assert place(scheduler, [*TOOL, 5]) == worker


@pytest.mark.parametrize(("in_flight", "worker"), [(True, "a"), (False, "b")])
def test_without_prefixes_in_flight_a_follower_goes_elsewhere(
    new_scheduler: NewScheduler, in_flight: bool, worker: str
):
    scheduler = new_scheduler(policy=E2(in_flight=in_flight))
    prepare(scheduler, "a", 1, TOOL, served=False)
    assert place(scheduler, [*TOOL, 5]) == worker


def test_a_receipt_shows_what_was_priced(new_scheduler: NewScheduler):
    """And beside it what will be found cached, since the prefix in flight is computed first."""
    scheduler = new_scheduler("a", policy=E2(in_flight=False))
    scheduler.submit(1, TOOL, now=0.0)
    placement = scheduler.submit(2, TOOL, now=0.0)
    receipt = scheduler.explain(2)
    assert [candidate.cached_tokens for candidate in receipt.candidates] == [0]
    assert receipt.candidates[0].prefill == pytest.approx(len(TOOL) / 1000)
    assert receipt.predicted_cached_tokens == placement.cached_tokens == len(TOOL) - 1


def test_a_computed_prefix_counts_without_those_in_flight(new_scheduler: NewScheduler):
    scheduler = new_scheduler(policy=E2(**FLAT, in_flight=False), block_size=16)
    prepare(scheduler, "a", 1, TOOL, served=True)
    prepare(scheduler, "a", 2, [*TOOL, *[1] * 50], served=False)
    assert place(scheduler, [*TOOL, *[1] * 50, 5]) == "a"
    assert scheduler.explain("asked").candidates[0].prefill == pytest.approx(0.151 - 0.096)


@pytest.mark.parametrize(("eviction", "worker"), [(True, "b"), (False, "a")])
def test_without_eviction_a_full_cache_is_no_reason(new_scheduler: NewScheduler, eviction: bool, worker: str):
    scheduler = new_scheduler(policy=E2(eviction=eviction), kv_tokens=300)
    prepare(scheduler, "a", 1, [1] * 250, served=True)
    scheduler.fleet.eviction_seconds_per_token[0] = 0.01
    prepare(scheduler, "b", 2, [2], served=False)
    assert place(scheduler, [3] * 200) == worker


@pytest.mark.parametrize("relieves", [True, False])
def test_moves_can_be_switched_off(new_scheduler: NewScheduler, relieves: bool):
    scheduler = new_scheduler(policy=E2(relieves=relieves))
    for id in range(4):
        prepare(scheduler, "a", id, [id] * 100, served=False)
    assert bool(scheduler.rebalance(0.0)) == relieves
