from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from preble.core.policy import Decision
from preble.core.scheduler import Placement, Scheduler
from preble.errors import ConfigurationError, InvalidRequestError, NoWorkersError
from preble.tokens import pack
from preble.wait_queue.disciplines import Discipline
from tests.core.conftest import LINEAR
from tests.policies import To

NewScheduler = Callable[..., Scheduler]

TOOL = list(range(1000, 1100))
QUESTION = [1, 2, 3, 4, 5]


def held(scheduler: Scheduler, worker: str) -> int:
    return next(state.held_tokens for state in scheduler.snapshot().workers if state.worker == worker)


def load(scheduler: Scheduler, worker: str) -> float:
    return next(state.load for state in scheduler.snapshot().workers if state.worker == worker)


def matched(scheduler: Scheduler, tokens: list[int], worker: str) -> int:
    return scheduler.tree.match(pack(tokens)).length(scheduler.fleet.slot(worker))


def serve(scheduler: Scheduler, id: object, tokens: list[int], output: Any = b"", **options: Any) -> Placement:
    """Submit a request and let it run to its end at once."""
    placement = scheduler.submit(id, tokens, now=0.0, **options)
    scheduler.started(id, cached_tokens=placement.cached_tokens, now=0.0)
    scheduler.first_token(id, now=0.0)
    scheduler.finish(id, output=output, now=0.0)
    return placement


def submit(scheduler: Scheduler, id: object, tokens: list[int], **options: Any) -> Placement:
    """Submit a request without output, so that its load is its prefill alone."""
    return scheduler.submit(id, tokens, now=0.0, **{"max_tokens": 0} | options)


class TestPlacement:
    def test_the_first_request_explores(self, scheduler: Scheduler):
        placement = submit(scheduler, 1, TOOL)
        assert (placement.cached_tokens, placement.reason) == (0, "explore")
        assert placement.predicted_ttft == pytest.approx(0.1)

    def test_a_cached_prefix_is_exploited(self, scheduler: Scheduler):
        first = serve(scheduler, 1, [*TOOL, 1])
        second = submit(scheduler, 2, [*TOOL, 2])
        assert (second.worker, second.cached_tokens, second.reason) == (first.worker, 100, "exploit")
        assert second.predicted_ttft == pytest.approx(0.001)

    def test_another_prompt_explores_the_idle_worker(self, scheduler: Scheduler):
        first = submit(scheduler, 1, TOOL)
        second = submit(scheduler, 2, QUESTION)
        assert (second.worker != first.worker, second.reason) == (True, "explore")

    def test_a_prefix_in_flight_counts_as_held(self, scheduler: Scheduler):
        first = submit(scheduler, 1, [*TOOL, 1])
        second = submit(scheduler, 2, [*TOOL, 2])
        assert (second.worker, second.cached_tokens, second.reason) == (first.worker, 100, "exploit")

    def test_a_follower_is_predicted_to_wait_for_its_leader(self, scheduler: Scheduler):
        submit(scheduler, 1, [*TOOL, 1])
        assert submit(scheduler, 2, [*TOOL, 2]).predicted_ttft == pytest.approx(0.102)

    @pytest.mark.parametrize(("discipline", "seconds"), [("fcfs", 0.701), ("response-ratio", 0.201)])
    def test_where_short_ones_go_first_they_are_predicted_to_pass(
        self, new_scheduler: NewScheduler, discipline: Discipline, seconds: float
    ):
        scheduler = new_scheduler("a", discipline=discipline)
        submit(scheduler, 0, [3])
        scheduler.started(0, cached_tokens=0, now=0.0)
        submit(scheduler, 1, [1] * 600)
        assert submit(scheduler, 2, [2] * 100).predicted_ttft == pytest.approx(seconds)

    def test_whoever_comes_to_an_idle_worker_starts_at_once_and_is_not_passed(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", discipline="response-ratio")
        submit(scheduler, 1, [1] * 600)
        assert submit(scheduler, 2, [2] * 100).predicted_ttft == pytest.approx(0.7)

    def test_an_unknown_order_is_refused(self, scheduler: Scheduler):
        with pytest.raises(ConfigurationError, match="discipline: unknown 'lottery', one of response-ratio"):
            scheduler.add_worker("c", kv_tokens=10, discipline="lottery", now=0.0)  # type: ignore[arg-type]

    def test_short_ones_that_pass_are_not_moved(self, new_scheduler: NewScheduler):
        """It waits at most 0.03 s; the one that waits behind another as long as two of itself gains by going."""
        scheduler = new_scheduler("a", discipline="response-ratio")
        submit(scheduler, "runs", [3])
        scheduler.started("runs", cached_tokens=0, now=0.0)
        for id, length in (("long", 900), ("other", 400), ("short", 10)):
            submit(scheduler, id, [len(id)] * length)
        scheduler.add_worker("b", kv_tokens=10_000, cost=LINEAR, discipline="response-ratio", now=0.0)
        assert [move.id for move in scheduler.rebalance(0.0)] == ["other"]

    def test_one_token_is_always_left_to_compute(self, scheduler: Scheduler):
        serve(scheduler, 1, TOOL)
        assert submit(scheduler, 2, TOOL).cached_tokens == 99

    def test_only_whole_blocks_are_cached(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", block_size=16)
        serve(scheduler, 1, [*TOOL, 1])
        assert submit(scheduler, 2, [*TOOL, 2]).cached_tokens == 96
        assert submit(scheduler, 3, TOOL[:96]).cached_tokens == 80
        assert submit(scheduler, 4, TOOL[:97]).cached_tokens == 96

    def test_each_worker_has_its_own_block_size(self):
        scheduler = Scheduler(To(0))
        for worker, block in (("a", 16), ("b", 64)):
            scheduler.add_worker(worker, kv_tokens=1000, block_size=block, cost=LINEAR, now=0.0)
        serve(scheduler, 1, TOOL)
        scheduler.policy = To(1)
        serve(scheduler, 2, TOOL)
        submit(scheduler, 3, [*TOOL, 1])
        assert [candidate.cached_tokens for candidate in scheduler.explain(3).candidates] == [96, 64]

    def test_tokens_in_any_form_are_the_same_prompt(self, scheduler: Scheduler):
        serve(scheduler, 1, TOOL)
        assert submit(scheduler, 2, pack(TOOL) + pack([9])).cached_tokens == 100

    def test_the_same_seed_and_calls_give_the_same_placements(self):
        def run(seed: int) -> list[str]:
            scheduler = Scheduler(seed=seed)
            for worker in "abcd":
                scheduler.add_worker(worker, kv_tokens=1000, cost=LINEAR, now=0.0)
            placements = []
            for id in range(40):
                placements.append(submit(scheduler, id, [id % 7, *range(id)]).worker)
                if id % 3 == 2:
                    scheduler.finish(id - 2, output=[1, 2], now=0.0)
            return placements

        assert run(1) == run(1)
        assert len({tuple(run(seed)) for seed in range(5)}) > 1


class TestLoad:
    def test_a_submit_is_accounted_at_once_and_undone_by_finish(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        submit(scheduler, 1, TOOL, max_tokens=10)
        assert load(scheduler, "a") == pytest.approx(0.105)  # decodes count half
        scheduler.finish(1, now=0.0)
        (state,) = scheduler.snapshot().workers
        assert (state.load, state.requests, scheduler.snapshot().requests) == (0.0, 0, 0)

    def test_the_prefill_is_done_at_the_first_token(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        submit(scheduler, 1, TOOL, max_tokens=10)
        scheduler.first_token(1, now=0.0)
        scheduler.first_token(1, now=0.0)
        assert load(scheduler, "a") == pytest.approx(0.005)

    def test_the_true_cached_count_corrects_the_load(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        serve(scheduler, 1, [*TOOL, 1])
        submit(scheduler, 2, [*TOOL, 2])
        assert load(scheduler, "a") == pytest.approx(0.001)
        scheduler.started(2, cached_tokens=40, now=0.0)
        assert load(scheduler, "a") == pytest.approx(0.061)
        scheduler.started(2, cached_tokens=100, now=0.0)
        assert load(scheduler, "a") == pytest.approx(0.061)

    def test_an_engine_that_says_more_than_the_prompt_was_cached_leaves_no_load(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        submit(scheduler, 1, QUESTION)
        scheduler.started(1, cached_tokens=12, now=0.0)
        assert load(scheduler, "a") == 0.0

    def test_an_engine_may_say_that_it_began_before_it_knows_the_cached_count(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        serve(scheduler, 1, [*TOOL, 1])
        submit(scheduler, 2, [*TOOL, 2])
        scheduler.started(2, cached_tokens=None, now=0.0)
        assert (scheduler.fleet.waiting[0], load(scheduler, "a")) == (0, pytest.approx(0.001))
        assert scheduler.explain(2).cached_tokens is None
        scheduler.started(2, cached_tokens=40, now=0.0)
        assert (scheduler.fleet.waiting[0], load(scheduler, "a")) == (0, pytest.approx(0.061))
        assert scheduler.explain(2).cached_tokens == 40

    def test_the_engine_may_have_more_than_was_believed(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        submit(scheduler, 1, TOOL)
        scheduler.started(1, cached_tokens=90, now=0.0)
        assert load(scheduler, "a") == pytest.approx(0.010)

    def test_started_after_the_first_token_adds_no_load(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        serve(scheduler, 1, [*TOOL, 1])
        submit(scheduler, 2, [*TOOL, 2])
        scheduler.first_token(2, now=0.0)
        scheduler.started(2, cached_tokens=0, now=0.0)
        assert load(scheduler, "a") == 0.0

    def test_a_count_that_comes_last_unlearns_nothing_that_was_computed(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        serve(scheduler, 1, [*TOOL, 1])
        submit(scheduler, 2, [*TOOL, 2])
        assert scheduler.fleet.waiting[0] == 1
        scheduler.first_token(2, now=0.0)
        assert scheduler.fleet.waiting[0] == 0
        scheduler.check()
        scheduler.started(2, cached_tokens=0, now=0.0)
        assert scheduler.explain(2).cached_tokens == 0
        scheduler.finish(2, output=[9], now=0.0)
        assert submit(scheduler, 3, [*TOOL, 3]).cached_tokens == len(TOOL)

    def test_expected_output_is_learned_and_bounded_by_max_tokens(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", kv_tokens=10_000)
        submit(scheduler, 1, [1], max_tokens=1000)
        before = load(scheduler, "a")
        scheduler.finish(1, output=[1] * 1000, now=0.0)
        submit(scheduler, 2, [2], max_tokens=1000)
        assert load(scheduler, "a") > before
        submit(scheduler, 3, [3], max_tokens=5)
        assert load(scheduler, "a") < 2 * before + 0.1


class TestWhatIsBelievedCached:
    def test_generated_tokens_hit_next_turn_all_but_the_last(self, scheduler: Scheduler):
        output = [7, 8, 9]
        first = serve(scheduler, 1, TOOL, output)
        assert matched(scheduler, TOOL + output, first.worker) == 102
        second = submit(scheduler, 2, TOOL + output + QUESTION)
        assert (second.worker, second.cached_tokens) == (first.worker, 102)

    def test_a_cancelled_prefill_is_not_believed_cached(self, scheduler: Scheduler):
        submit(scheduler, 1, TOOL)
        scheduler.finish(1, now=0.0)
        assert submit(scheduler, 2, TOOL).cached_tokens == 0
        assert scheduler.snapshot().tree_tokens == 100

    def test_started_alone_does_not_make_it_cached(self, scheduler: Scheduler):
        submit(scheduler, 1, TOOL)
        scheduler.started(1, cached_tokens=0, now=0.0)
        scheduler.finish(1, now=0.0)
        assert scheduler.snapshot().tree_tokens == 0

    def test_a_follower_keeps_what_its_cancelled_leader_shared(self, scheduler: Scheduler):
        leader = submit(scheduler, 1, [*TOOL, 1, 1])
        submit(scheduler, 2, [*TOOL, 2, 2])
        scheduler.finish(1, now=0.0)
        assert matched(scheduler, [*TOOL, 1, 1], leader.worker) == 100
        scheduler.finish(2, now=0.0)
        assert matched(scheduler, TOOL, leader.worker) == 0

    def test_cancelled_after_the_first_token_it_stays_cached(self, scheduler: Scheduler):
        worker = submit(scheduler, 1, TOOL).worker
        scheduler.first_token(1, now=0.0)
        scheduler.finish(1, now=0.0)
        assert matched(scheduler, TOOL, worker) == 100

    def test_output_alone_tells_that_the_prefill_is_done(self, scheduler: Scheduler):
        worker = submit(scheduler, 1, TOOL).worker
        scheduler.finish(1, output=[7], now=0.0)
        assert matched(scheduler, TOOL, worker) == 100

    def test_a_lower_true_count_corrects_what_is_held(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        serve(scheduler, 1, [*TOOL, 1, 1])
        submit(scheduler, 2, [*TOOL, 2])
        scheduler.started(2, cached_tokens=40, now=0.0)
        assert matched(scheduler, [*TOOL, 1, 1], "a") == 100
        scheduler.finish(2, now=0.0)
        assert matched(scheduler, TOOL, "a") == 40

    def test_a_worker_s_eviction_is_followed(self, scheduler: Scheduler):
        worker = serve(scheduler, 1, TOOL).worker
        scheduler.evicted(worker, TOOL, 30, now=0.0)
        assert matched(scheduler, TOOL, worker) == held(scheduler, worker) == 30
        scheduler.evicted(worker, TOOL, 50, now=0.0)
        assert held(scheduler, worker) == 30
        scheduler.evicted(worker, TOOL, 0, now=0.0)
        assert held(scheduler, worker) == 0
        assert submit(scheduler, 2, TOOL).cached_tokens == 0

    def test_an_eviction_leaves_other_workers_and_branches_alone(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, 1, 0))
        serve(scheduler, 1, [*TOOL, 1])
        serve(scheduler, 2, [*TOOL, 1])
        serve(scheduler, 3, [*TOOL, 2, 2])
        scheduler.evicted("a", [*TOOL, 1], 100, now=0.0)
        assert matched(scheduler, [*TOOL, 1], "a") == 100
        assert matched(scheduler, [*TOOL, 2, 2], "a") == 102
        assert matched(scheduler, [*TOOL, 1], "b") == 101

    def test_a_cleared_cache_holds_only_what_is_in_flight(self, scheduler: Scheduler):
        worker = serve(scheduler, 1, TOOL + QUESTION).worker
        submit(scheduler, 2, TOOL)
        scheduler.evicted(worker, b"", 0, now=0.0)
        assert held(scheduler, worker) == 100
        scheduler.finish(2, now=0.0)
        assert held(scheduler, worker) == 0


class TestCapacity:
    def test_estimated_evictions_keep_a_worker_within_its_cache_oldest_first(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", kv_tokens=250)
        for id in range(3):
            serve(scheduler, id, [id] * 100)
        assert held(scheduler, "a") == 250
        assert [matched(scheduler, [id] * 100, "a") for id in range(3)] == [50, 100, 100]

    def test_a_use_keeps_a_prefix(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", kv_tokens=200)
        for id, token in enumerate([0, 1, 0, 2]):
            serve(scheduler, id, [token] * 100)
        assert [matched(scheduler, [token] * 100, "a") for token in range(3)] == [100, 0, 100]

    def test_what_is_in_flight_is_never_evicted(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", kv_tokens=150)
        for id in range(2):
            submit(scheduler, id, [id] * 100)
        assert held(scheduler, "a") == 200
        assert scheduler.fleet.free[0] == -50
        scheduler.first_token(0, now=0.0)
        scheduler.finish(0, now=0.0)
        assert held(scheduler, "a") == 150

    def test_generated_tokens_count_too(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", kv_tokens=100)
        serve(scheduler, 1, [1] * 90, [2] * 50)
        assert held(scheduler, "a") == 100

    def test_a_worker_that_reports_its_evictions_is_believed_up_to_a_quarter_more(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", kv_tokens=100, reports_evictions=True)
        serve(scheduler, 1, [1] * 60)
        serve(scheduler, 2, [2] * 60)
        assert held(scheduler, "a") == 120
        serve(scheduler, 3, [3] * 60)
        assert held(scheduler, "a") == 125

    def test_a_slot_used_again_has_nothing_of_its_predecessor(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", kv_tokens=100, reports_evictions=False)
        serve(scheduler, 1, [1] * 60)
        scheduler.remove_worker("a", now=0.0)
        scheduler.add_worker("b", kv_tokens=100, cost=LINEAR, reports_evictions=True, now=0.0)
        assert submit(scheduler, 2, [1] * 60).cached_tokens == 0
        serve(scheduler, 3, [2] * 60)
        assert held(scheduler, "b") == 120


class TestWorkers:
    def test_their_names_in_order(self, scheduler: Scheduler):
        assert scheduler.workers == ["a", "b"]
        scheduler.remove_worker("a", now=0.0)
        scheduler.add_worker("c", kv_tokens=1, now=0.0)
        assert scheduler.workers == ["c", "b"]

    def test_a_removed_worker_returns_its_requests_in_order(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, 0, 1, 0))
        for id in "wxyz":
            submit(scheduler, id, [ord(id)] * 9)
        assert scheduler.remove_worker("a", now=0.0) == ["w", "x", "z"]
        assert scheduler.remove_worker("b", now=0.0) == ["y"]
        assert scheduler.snapshot() == type(scheduler.snapshot())((), 4, 0, 0)

    def test_orphans_can_be_submitted_again_under_their_id(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, 1))
        submit(scheduler, 1, TOOL)
        assert scheduler.remove_worker("a", now=0.0) == [1]
        assert submit(scheduler, 1, TOOL).worker == "b"
        scheduler.check()
        scheduler.first_token(1, now=0.0)
        scheduler.finish(1, now=0.0)
        assert load(scheduler, "b") == 0.0
        assert scheduler.snapshot().requests == 0

    def test_an_orphan_submitted_again_is_the_latest(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, 1, 1))
        submit(scheduler, 1, TOOL)
        submit(scheduler, 2, QUESTION)
        scheduler.remove_worker("a", now=0.0)
        submit(scheduler, 1, TOOL)
        assert scheduler.remove_worker("b", now=0.0) == [2, 1]

    def test_orphans_hear_nothing_more_and_can_be_finished(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        for id in (1, 2):
            submit(scheduler, id, [id] * 9)
        scheduler.remove_worker("a", now=0.0)
        scheduler.started(1, cached_tokens=0, now=0.0)
        scheduler.first_token(1, now=0.0)
        scheduler.finish(1, now=0.0)
        scheduler.finish(2, output=[1, 2], now=0.0)
        assert (scheduler.snapshot().requests, scheduler.snapshot().tree_nodes) == (0, 0)

    def test_orphans_stay_when_there_is_nobody_to_take_them(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        submit(scheduler, 1, TOOL)
        scheduler.remove_worker("a", now=0.0)
        with pytest.raises(NoWorkersError):
            submit(scheduler, 1, TOOL)
        assert scheduler.snapshot().requests == 1
        assert scheduler.rebalance(0.0) == []
        scheduler.finish(1, now=0.0)

    def test_a_removed_worker_gets_nothing(self, scheduler: Scheduler):
        serve(scheduler, 1, TOOL)
        scheduler.remove_worker("a", now=0.0)
        assert {submit(scheduler, id, [*TOOL, id]).worker for id in range(2, 9)} == {"b"}


class TestRefusals:
    def test_an_empty_prompt(self, scheduler: Scheduler):
        with pytest.raises(InvalidRequestError, match="tokens: must not be empty"):
            submit(scheduler, 1, [])

    def test_what_is_no_tokens(self, scheduler: Scheduler):
        with pytest.raises(InvalidRequestError, match="tokens: not a sequence of 32-bit token ids"):
            submit(scheduler, 1, None)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match="tokens: length is not a multiple of 4 bytes"):
            submit(scheduler, 1, b"abc")  # type: ignore[arg-type]

    def test_negative_limits(self, scheduler: Scheduler):
        with pytest.raises(InvalidRequestError, match="max_tokens: must be at least 0, not -1"):
            submit(scheduler, 1, TOOL, max_tokens=-1)

    def test_an_id_in_flight(self, scheduler: Scheduler):
        submit(scheduler, 1, TOOL)
        with pytest.raises(InvalidRequestError, match="id: 1 is in flight"):
            submit(scheduler, 1, TOOL)
        assert scheduler.snapshot().requests == 1

    def test_output_that_is_no_tokens_leaves_the_request_in_flight(self, scheduler: Scheduler):
        submit(scheduler, 1, TOOL)
        with pytest.raises(InvalidRequestError, match="output: "):
            scheduler.finish(1, output=b"abc", now=0.0)
        scheduler.finish(1, now=0.0)

    @pytest.mark.parametrize("policy", ["e2", "round-robin", "least-loaded"])
    def test_no_workers(self, policy: str):
        scheduler = Scheduler(policy)
        with pytest.raises(NoWorkersError):
            submit(scheduler, 1, TOOL)
        assert scheduler.snapshot() == type(scheduler.snapshot())((), 0, 0, 0)

    def test_unknown_and_doubled_workers(self, scheduler: Scheduler):
        with pytest.raises(ConfigurationError, match="worker: 'z' is not here"):
            scheduler.remove_worker("z", now=0.0)
        with pytest.raises(ConfigurationError, match="worker: 'z' is not here"):
            scheduler.evicted("z", TOOL, 0, now=0.0)
        with pytest.raises(ConfigurationError, match="worker: 'a' is here already"):
            scheduler.add_worker("a", kv_tokens=1, now=0.0)

    @pytest.mark.parametrize(
        ("name", "value"), [("kv_tokens", 0), ("kv_tokens", -5), ("block_size", 0), ("max_batched_tokens", 0)]
    )
    def test_a_worker_without_cache_or_blocks(self, scheduler: Scheduler, name: str, value: int):
        with pytest.raises(ConfigurationError, match=f"{name}: must be at least 1, not {value}"):
            scheduler.add_worker("c", **{"kv_tokens": 10, "now": 0.0, name: value})
        assert scheduler.workers == ["a", "b"]

    def test_unknown_costs_and_policies(self, scheduler: Scheduler):
        with pytest.raises(ConfigurationError, match="cost: unknown preset"):
            scheduler.add_worker("c", kv_tokens=1, cost="abacus", now=0.0)
        assert scheduler.workers == ["a", "b"]
        with pytest.raises(ConfigurationError, match="policy: unknown 'dice', one of e2"):
            Scheduler("dice")

    @pytest.mark.parametrize("slot", [1, 7, -1])
    def test_a_policy_that_chooses_nobody(self, new_scheduler: NewScheduler, slot: int):
        scheduler = new_scheduler(policy=To(slot))
        scheduler.remove_worker("b", now=0.0)
        with pytest.raises(ConfigurationError, match=f"policy: chose slot {slot}, which has no worker"):
            submit(scheduler, 1, TOOL)
        assert (scheduler.snapshot().requests, scheduler.snapshot().tree_nodes) == (0, 0)

    def test_a_policy_that_chooses_a_drained_worker(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0))
        scheduler.drain_worker("a", now=0.0)
        with pytest.raises(ConfigurationError, match="policy: chose slot 0, which has no worker"):
            submit(scheduler, 1, TOOL)

    def test_unknown_requests(self, scheduler: Scheduler):
        for call in (
            lambda: scheduler.finish(1, now=0.0),
            lambda: scheduler.finish(1, output=[1], now=0.0),
            lambda: scheduler.started(1, cached_tokens=0, now=0.0),
            lambda: scheduler.first_token(1, now=0.0),
            lambda: scheduler.explain(1),
        ):
            with pytest.raises(KeyError):
                call()


@pytest.mark.parametrize("answer", [None, "a", Decision("0", "text"), 3])
def test_a_policy_that_answers_with_something_else_is_a_typed_error(answer: object):
    class Odd:
        def place(self, query: object, fleet: object, now: float) -> object:
            return answer

    scheduler = Scheduler(Odd())
    scheduler.add_worker("a", kv_tokens=100, now=0.0)
    with pytest.raises(ConfigurationError, match="policy: place returned"):
        scheduler.submit(1, [1, 2], now=0.0)
    assert scheduler.snapshot().requests == 0


class TestReceipts:
    def test_a_decision_and_what_came_of_it(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy="e2")
        worker = serve(scheduler, 1, TOOL).worker
        placement = scheduler.submit(2, TOOL + QUESTION, max_tokens=0, now=10.0)
        receipt = scheduler.explain(2)
        assert (receipt.id, receipt.worker, receipt.reason) == (2, worker, "exploit")
        assert receipt.predicted_cached_tokens == placement.cached_tokens == 100
        assert receipt.predicted_ttft == placement.predicted_ttft
        assert (receipt.cached_tokens, receipt.ttft) == (None, None)
        scheduler.started(2, cached_tokens=96, now=11.0)
        scheduler.first_token(2, now=12.5)
        assert (scheduler.explain(2).cached_tokens, scheduler.explain(2).ttft) == (96, 2.5)

    def test_the_terms_of_every_candidate(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy="e2")
        submit(scheduler, 1, TOOL)
        worker = submit(scheduler, 2, QUESTION).worker
        terms = {candidate.worker: candidate for candidate in scheduler.explain(2).candidates}
        other = terms.pop({"a": "b", "b": "a"}[worker])
        assert (terms[worker].load, other.load) == (0.0, pytest.approx(0.1))
        assert terms[worker].prefill == other.prefill == pytest.approx(0.005)
        assert (other.eviction, other.cached_tokens) == (0.0, 0)

    def test_a_policy_without_prices_gives_none(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a", policy="round-robin")
        submit(scheduler, 1, TOOL)
        (candidate,) = scheduler.explain(1).candidates
        assert (candidate.load, candidate.prefill, candidate.eviction) == (None, None, None)

    def test_they_name_the_workers_of_their_time(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        submit(scheduler, 1, TOOL)
        scheduler.add_worker("b", kv_tokens=10, now=0.0)
        scheduler.remove_worker("a", now=0.0)
        scheduler.add_worker("c", kv_tokens=10, now=0.0)
        receipt = scheduler.explain(1)
        assert (receipt.worker, [candidate.worker for candidate in receipt.candidates]) == ("a", ["a"])

    def test_the_oldest_are_forgotten(self):
        scheduler = Scheduler(receipts=2)
        scheduler.add_worker("a", kv_tokens=100, now=0.0)
        for id in (1, 2, 1, 3):
            serve(scheduler, id, [id])
        with pytest.raises(KeyError):
            scheduler.explain(2)
        assert [scheduler.explain(id).id for id in (1, 3)] == [1, 3]

    def test_they_can_be_switched_off(self):
        scheduler = Scheduler(receipts=0)
        scheduler.add_worker("a", kv_tokens=100, now=0.0)
        serve(scheduler, 1, TOOL)
        with pytest.raises(KeyError):
            scheduler.explain(1)


class TestReadOnly:
    def test_looking_changes_nothing(self, new_scheduler: NewScheduler):
        scheduler, untouched = (new_scheduler("abc") for _ in range(2))
        for id in range(20):
            for each in (scheduler, untouched):
                submit(each, id, [id % 3] * 30 + [id])
            before = scheduler.snapshot()
            scheduler.explain(id)
            scheduler.rebalance(0.0)
            scheduler.check()
            assert scheduler.workers == ["a", "b", "c"]
            assert scheduler.snapshot() == before == untouched.snapshot()
        for id in range(20):
            assert scheduler.explain(id).worker == untouched.explain(id).worker

    def test_a_snapshot_counts(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, 1, 1))
        submit(scheduler, 1, [*TOOL, 1])
        submit(scheduler, 2, [*TOOL, 2])
        submit(scheduler, 3, [*TOOL, 1])
        snapshot = scheduler.snapshot()
        assert (snapshot.requests, snapshot.tree_tokens, snapshot.tree_nodes) == (3, 102, 3)
        assert [(state.worker, state.requests, state.held_tokens) for state in snapshot.workers] == [
            ("a", 1, 101),
            ("b", 2, 102),
        ]
        assert all(state.kv_tokens == 1000 for state in snapshot.workers)


class TestRebalance:
    def test_the_newest_waiting_requests_move_to_the_idle_worker(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, relieves=True))
        for id in range(4):
            submit(scheduler, id, [id] * 100)
        found = scheduler.rebalance(0.0)
        assert [(move.id, move.source, move.target) for move in found] == [(3, "a", "b")]

    def test_a_moved_request_counts_in_the_wait_of_the_next(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("abc", policy=To(0, relieves=True))
        for id in range(8):
            submit(scheduler, id, [id] * 100)
        found = scheduler.rebalance(0.0)
        assert [move.id for move in found] == [7, 6, 5, 4]
        assert sorted(move.target for move in found) == ["b", "b", "c", "c"]

    def test_what_runs_is_not_moved(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, relieves=True))
        for id in range(4):
            submit(scheduler, id, [id] * 100)
            scheduler.started(id, cached_tokens=0, now=0.0)
        assert scheduler.rebalance(0.0) == []

    def test_nothing_moves_for_less_than_half_the_wait(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, relieves=True))
        submit(scheduler, 1, [1] * 100)
        submit(scheduler, 2, [2] * 100)
        assert scheduler.rebalance(0.0) == []
        submit(scheduler, 3, [3])
        assert [move.id for move in scheduler.rebalance(0.0)] == [3]

    def test_a_long_cached_prefix_is_worth_its_wait(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, relieves=True))
        serve(scheduler, 0, [9] * 200)
        submit(scheduler, 1, [1] * 300)
        submit(scheduler, 2, [9] * 200 + [2])
        assert scheduler.rebalance(0.0) == []

    def test_a_baseline_is_left_as_it_is(self, new_scheduler: NewScheduler):
        policy = To(0, relieves=True)
        policy.relieves = False
        scheduler = new_scheduler(policy=policy)
        for id in range(4):
            submit(scheduler, id, [id] * 100)
        assert scheduler.rebalance(0.0) == []

    @pytest.mark.parametrize(("policy", "relieves"), [("e2", True), ("round-robin", False), ("least-loaded", False)])
    def test_only_e2_has_its_placements_corrected(self, new_scheduler: NewScheduler, policy: str, relieves: bool):
        """A worker joins when the only other one has long been queueing."""
        scheduler = new_scheduler("a", policy=policy)
        for id in range(4):
            submit(scheduler, id, [id] * 100)
        scheduler.add_worker("b", kv_tokens=1000, cost=LINEAR, now=0.0)
        assert bool(scheduler.rebalance(0.0)) == relieves

    def test_a_move_can_be_carried_out(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler(policy=To(0, 0, 0, 0, 1, relieves=True))
        for id in range(4):
            submit(scheduler, id, [id] * 100)
        (move,) = scheduler.rebalance(0.0)
        scheduler.finish(move.id, now=0.0)
        assert submit(scheduler, move.id, [3] * 100).worker == move.target
        assert scheduler.rebalance(0.0) == []


class TestBaselines:
    def test_round_robin_takes_turns_whatever_is_cached(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("abc", policy="round-robin")
        assert [serve(scheduler, id, TOOL).worker for id in range(7)] == list("abcabca")
        assert scheduler.explain(0).reason == "turn"

    def test_round_robin_skips_who_is_gone(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("abc", policy="round-robin")
        scheduler.remove_worker("b", now=0.0)
        assert [submit(scheduler, id, TOOL).worker for id in range(4)] == list("acac")

    def test_each_scheduler_has_turns_of_its_own(self, new_scheduler: NewScheduler):
        first, second = (new_scheduler(policy="round-robin") for _ in range(2))
        assert [submit(each, 1, TOOL).worker for each in (first, second)] == ["a", "a"]

    def test_least_loaded_counts_requests(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("abc", policy="least-loaded")
        big = submit(scheduler, 1, [1] * 500).worker
        small = [submit(scheduler, id, [id]).worker for id in (2, 3)]
        assert sorted([big, *small]) == ["a", "b", "c"]
        scheduler.finish(1, now=0.0)
        assert submit(scheduler, 4, [4]).worker == big
        assert scheduler.explain(4).reason == "least requests"

    def test_least_loaded_ignores_who_is_gone(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("ab", policy="least-loaded")
        scheduler.remove_worker("a", now=0.0)
        assert {submit(scheduler, id, [id]).worker for id in range(5)} == {"b"}

    def test_least_loaded_breaks_ties_toward_the_emptiest_cache(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("ab", policy="least-loaded")
        first = serve(scheduler, 1, TOOL).worker
        assert submit(scheduler, 2, TOOL).worker != first


class TestCheck:
    """Each book is compared with the requests in flight."""

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda s: s.fleet.load.__setitem__(0, 1.0), "load"),
            (lambda s: s.fleet.pending.__setitem__(0, 1.0), "pending prefill"),
            (lambda s: s.fleet.requests.__setitem__(0, 5), "request count"),
            (lambda s: s.fleet.free.__setitem__(0, 5), "free tokens"),
            (lambda s: s.tree.insert(pack(TOOL), 0), "pins"),
        ],
    )
    def test_a_spoilt_book_is_found(self, spoil: Callable[[Scheduler], Any], message: str):
        scheduler = Scheduler()
        scheduler.add_worker("a", kv_tokens=1000, cost=LINEAR, now=0.0)
        submit(scheduler, 1, TOOL)
        scheduler.check()
        spoil(scheduler)
        with pytest.raises(AssertionError, match=f"slot 0: {message}"):
            scheduler.check()
