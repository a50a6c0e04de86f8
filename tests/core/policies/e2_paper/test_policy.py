"""One class per part of the paper's section 3.2, on trees small enough to price by hand.

A token costs a millisecond, prefilled or decoded. Until a worker has seen an output, it is believed to be 64 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.core.policies.e2_paper.policy import E2Paper
from preble.core.policies.e2_paper.window import Trend, Trends, Window
from preble.core.receipt import Candidate
from preble.core.scheduler import Scheduler
from preble.errors import NoWorkersError, StateError
from preble.tokens import pack, unpack
from preble.tree import RadixTree

NewScheduler = Callable[..., Scheduler]

TOOL = [9] * 100
BASE: dict[str, Any] = {"load_shift": False, "autoscale": False, "balance": False}


def new(new_scheduler: NewScheduler, workers: str = "ab", *, kv_tokens: int = 1000, **options: Any) -> Scheduler:
    return new_scheduler(workers, policy=E2Paper(**(BASE | options)), kv_tokens=kv_tokens)


def serve(
    scheduler: Scheduler,
    id: object,
    tokens: list[int],
    worker: str,
    *,
    now: float = 0.0,
    wait: float = 0.0,
    output: int = 0,
) -> None:
    """Serve a request on `worker` that queues for `wait` seconds and generates `output` tokens."""
    placement = scheduler.submit(id, tokens, max_tokens=output, worker=worker, now=now)
    computed = now + wait + (len(tokens) - placement.cached_tokens) / 1000
    scheduler.first_token(id, now=computed)
    scheduler.finish(id, output=[7] * output, now=computed)


def ask(scheduler: Scheduler, tokens: list[int], now: float = 0.0, id: object = "asked") -> tuple[str, str]:
    placement = scheduler.submit(id, tokens, max_tokens=0, now=now)
    return placement.worker, placement.reason


def terms(scheduler: Scheduler, worker: str, id: object = "asked") -> Candidate:
    return next(candidate for candidate in scheduler.explain(id).candidates if candidate.worker == worker)


class TestExploitOrExplore:
    def test_more_matched_than_uncached_exploits_however_loaded(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler)
        serve(scheduler, 1, TOOL, "a")
        serve(scheduler, 2, [1] * 800, "a")
        assert ask(scheduler, [*TOOL, *[2] * 99]) == ("a", "exploit")

    def test_as_much_uncached_as_matched_explores(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler)
        serve(scheduler, 1, TOOL, "a")
        serve(scheduler, 2, [1] * 800, "a")
        assert ask(scheduler, [*TOOL, *[2] * 100]) == ("b", "explore")

    def test_the_longest_match_wins_over_its_larger_part(self, new_scheduler: NewScheduler):
        """The node with most tokens, TOOL, is on b too, which is idle. The text says longest match."""
        scheduler = new(new_scheduler)
        serve(scheduler, 1, TOOL, "b")
        serve(scheduler, 2, [*TOOL, *[1] * 20], "a")
        serve(scheduler, 3, [2] * 500, "a")
        assert ask(scheduler, [*TOOL, *[1] * 20, 5]) == ("a", "exploit")

    def test_among_its_holders_the_least_load_cost_wins(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler, "abc")
        serve(scheduler, 1, TOOL, "a")
        serve(scheduler, 2, TOOL, "b")
        serve(scheduler, 3, [1] * 50, "a")
        assert ask(scheduler, [*TOOL, 5]) == ("b", "exploit")
        assert ask(scheduler, [*TOOL, 6], id="again") == ("b", "exploit")  # c is idle, but does not hold it

    def test_exploring_takes_the_least_load_cost(self, new_scheduler: NewScheduler):
        """a holds 100 of 200 tokens: L + P is 164 + 100 ms on a, 0 + 200 ms on b, so b; with 50 ms more on b, a."""
        scheduler = new(new_scheduler)
        serve(scheduler, 1, TOOL, "a")
        assert ask(scheduler, [*TOOL, *[2] * 100]) == ("b", "explore")
        other = new(new_scheduler)
        serve(other, 1, TOOL, "a")
        serve(other, 2, [4], "b")
        assert ask(other, [*TOOL, *[2] * 100]) == ("a", "explore")

    def test_what_only_a_drained_worker_holds_is_not_exploited(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler)
        serve(scheduler, 1, TOOL, "a")
        scheduler.drain_worker("a", now=0.0)
        assert ask(scheduler, [*TOOL, 5]) == ("b", "explore")

    def test_nobody_there(self, new_scheduler: NewScheduler):
        with pytest.raises(NoWorkersError):
            ask(new(new_scheduler, ""), TOOL)


class TestLoad:
    def test_uncached_prefill_and_a_guessed_output(self, new_scheduler: NewScheduler):
        """The first misses 100 tokens, the second 10 of them; each may decode 64."""
        scheduler = new(new_scheduler)
        serve(scheduler, 1, TOOL, "a")
        serve(scheduler, 2, [*TOOL, *[1] * 10], "a")
        ask(scheduler, [5])
        assert terms(scheduler, "a").load == pytest.approx(0.110 + 2 * 0.064)
        assert terms(scheduler, "b").load == 0.0

    def test_all_decode_at_the_average_output_of_their_worker(self, new_scheduler: NewScheduler):
        """Outputs of 10 and 30 tokens: 20 on average, for the one still running too."""
        scheduler = new(new_scheduler)
        serve(scheduler, 1, [1] * 50, "a", output=10)
        serve(scheduler, 2, [2] * 50, "a", output=30)
        scheduler.submit(3, [3] * 50, worker="a", now=0.0)
        ask(scheduler, [5])
        assert terms(scheduler, "a").load == pytest.approx(3 * (0.050 + 0.020))

    def test_it_is_history_and_leaves_after_h(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler, window=180.0)
        serve(scheduler, 1, TOOL, "a", now=0.0)
        ask(scheduler, [5], now=179.9, id="within")
        ask(scheduler, [6], now=180.0, id="after")
        assert terms(scheduler, "a", "within").load == pytest.approx(0.164)
        assert terms(scheduler, "a", "after").load == 0.0

    def test_outputs_leave_after_h_too(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler, window=180.0)
        serve(scheduler, 1, [1] * 50, "a", now=0.0, output=10)
        scheduler.submit(2, [2] * 50, worker="a", now=100.0)
        ask(scheduler, [5], now=150.0, id="within")
        ask(scheduler, [6], now=200.0, id="after")
        assert terms(scheduler, "a", "within").load == pytest.approx(0.100 + 2 * 0.010)
        assert terms(scheduler, "a", "after").load == pytest.approx(0.050 + 0.064)


class TestPrefill:
    def test_tokens_uncached_on_each_worker(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler, "abc")
        serve(scheduler, 1, TOOL, "a")
        serve(scheduler, 2, TOOL[:40], "b")
        ask(scheduler, [*TOOL, *[1] * 20])
        assert [terms(scheduler, worker).prefill for worker in "abc"] == pytest.approx([0.020, 0.080, 0.120])


class TestEviction:
    """Each worker has room for 300 tokens. Its requests of 200 and 100 fill a."""

    @pytest.fixture
    def full(self, new_scheduler: NewScheduler) -> Scheduler:
        scheduler = new(new_scheduler, kv_tokens=300)
        serve(scheduler, 1, [1] * 200, "a")
        serve(scheduler, 2, [2] * 100, "a")
        scheduler.submit(3, [3] * 10, worker="b", now=0.0)
        return scheduler

    def test_victims_in_lru_order_by_their_share_of_requests(self, full: Scheduler):
        """For 250 tokens go all 200 of one and 50 of the other, each shared by half of a's requests."""
        assert ask(full, [5] * 250)[0] == "b"
        assert terms(full, "b").eviction == 0.0
        serve(full, 4, [4] * 800, "b")  # makes b heavier, so that a's M can decide
        ask(full, [6] * 250, id="again")
        assert terms(full, "a", "again").eviction == pytest.approx(0.200 / 2 + 0.050 / 2)

    def test_a_node_counts_every_request_below_it(self, new_scheduler: NewScheduler):
        """TOOL is shared by 3 of a's 4 requests. For 220 tokens go 20, twice 10 below TOOL, and TOOL; 80 of others."""
        scheduler = new(new_scheduler, "a", kv_tokens=230)
        serve(scheduler, 1, [*TOOL, *[1] * 20], "a")
        serve(scheduler, 2, [*TOOL, *[2] * 10], "a")
        serve(scheduler, 3, TOOL, "a")
        serve(scheduler, 4, [4] * 100, "a")
        ask(scheduler, [5] * 220)
        expected = 0.020 / 4 + 0.010 / 4 + 0.100 * 3 / 4 + 0.090 / 4
        assert terms(scheduler, "a").eviction == pytest.approx(expected)

    def test_it_decides(self, new_scheduler: NewScheduler):
        """a: L 0.264, M 0.1; b: L 0.328. With M b is cheaper, without it a."""

        def full(**options: Any) -> Scheduler:
            scheduler = new(new_scheduler, kv_tokens=300, **options)
            serve(scheduler, 1, [1] * 200, "a")
            scheduler.submit(2, [2] * 100, worker="b", now=0.0)
            scheduler.submit(3, [3] * 100, worker="b", now=0.0)
            scheduler.evicted("b", [], 0, now=0.0)
            scheduler.finish(2, now=0.0)
            scheduler.finish(3, now=0.0)
            return scheduler

        assert ask(full(), [5] * 200)[0] == "b"
        assert ask(full(eviction=False), [5] * 200)[0] == "a"

    def test_what_nobody_shared_in_h_costs_nothing(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler, "a", kv_tokens=300, window=180.0)
        serve(scheduler, 1, [1] * 200, "a", now=0.0)
        serve(scheduler, 2, [2] * 100, "a", now=170.0)
        ask(scheduler, [5] * 250, now=190.0)
        assert terms(scheduler, "a").eviction == pytest.approx(0.050)

    def test_where_it_cannot_decide_it_is_not_counted(self, full: Scheduler):
        """On a, L + P alone exceed what b costs."""
        assert ask(full, [5] * 250)[0] == "b"
        assert terms(full, "a").eviction == 0.0

    def test_what_a_request_in_flight_needs_is_no_victim(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler, "a", kv_tokens=300)
        scheduler.submit(1, [1] * 200, worker="a", now=0.0)
        serve(scheduler, 2, [2] * 100, "a")
        ask(scheduler, [5] * 250)
        assert terms(scheduler, "a").eviction == pytest.approx(0.100 / 2)


class TestBalance:
    @pytest.fixture
    def scheduler(self, new_scheduler: NewScheduler) -> Scheduler:
        """a has decoded 600 of 610 ms, b prefilled 200 of 201 ms."""
        scheduler = new(new_scheduler, balance=True, imbalance=0.9)
        serve(scheduler, 1, [1] * 10, "a", output=600)
        serve(scheduler, 2, [2] * 200, "b", output=1)
        return scheduler

    def test_what_explores_goes_to_the_decode_heavy_worker(self, scheduler: Scheduler):
        assert ask(scheduler, [5] * 50) == ("a", "explore decode-heavy")

    def test_what_exploits_does_not(self, scheduler: Scheduler):
        assert ask(scheduler, [*[2] * 200, 5]) == ("b", "exploit")

    def test_below_imbal_r_the_load_decides(self, scheduler: Scheduler):
        scheduler.policy.imbalance = 0.99
        assert ask(scheduler, [5] * 50) == ("b", "explore")

    def test_switched_off(self, scheduler: Scheduler):
        scheduler.policy.balance = False
        assert ask(scheduler, [5] * 50) == ("b", "explore")


class TestLoadShift:
    def shifting(self, new_scheduler: NewScheduler, **options: Any) -> Scheduler:
        """L is 100 + 64 ms on a and 36 + 64 ms on b: a is 1.64 times as heavy."""
        scheduler = new(new_scheduler, **({"load_shift": True} | options))
        serve(scheduler, 1, TOOL, "a")
        serve(scheduler, 2, [2] * 36, "b")
        return scheduler

    def test_what_would_exploit_the_heaviest_goes_to_the_lightest(self, new_scheduler: NewScheduler):
        assert ask(self.shifting(new_scheduler), [*TOOL, 5]) == ("b", "load shift")

    def test_until_the_ratio_is_below_th_bal(self, new_scheduler: NewScheduler):
        """b computes TOOL, so its L becomes 0.265 and a's 0.164 is the lighter; then they alternate by LoadCost."""
        scheduler = self.shifting(new_scheduler)
        ask(scheduler, [*TOOL, 5], id="shifted")
        assert ask(scheduler, [*TOOL, 6], id="next") == ("a", "exploit")

    def test_at_th_bal_nothing_shifts(self, new_scheduler: NewScheduler):
        assert ask(self.shifting(new_scheduler, threshold=1.64), [*TOOL, 5]) == ("a", "exploit")

    def test_the_others_stay(self, new_scheduler: NewScheduler):
        """Only the heaviest is relieved: what exploits the middle one stays."""
        scheduler = new(new_scheduler, "abc", load_shift=True)
        serve(scheduler, 1, [1] * 500, "a")
        serve(scheduler, 2, TOOL, "b")
        assert ask(scheduler, [*TOOL, 5]) == ("b", "exploit")

    def test_not_before_it_settled(self, new_scheduler: NewScheduler):
        """Two requests on two workers are one each."""
        assert ask(self.shifting(new_scheduler, settle=2), [*TOOL, 5]) == ("a", "exploit")

    def test_switched_off(self, new_scheduler: NewScheduler):
        assert ask(self.shifting(new_scheduler, load_shift=False), [*TOOL, 5]) == ("a", "exploit")


class TestAutoscaling:
    def queued(self, new_scheduler: NewScheduler, *waits: float, **options: Any) -> Scheduler:
        """TOOL is on a; its requests wait so long, one every 20 s of a window of 100 s."""
        options = {"window": 100.0, "autoscale": True, "samples": 2} | options
        scheduler = new(new_scheduler, "abc", kv_tokens=10_000, **options)
        serve(scheduler, "first", TOOL, "a", now=1.0, wait=1.0)
        for index, wait in enumerate(waits):
            serve(scheduler, index, [*TOOL, *[index] * 50], "a", now=10.0 + 20 * index, wait=wait)
        serve(scheduler, "other", [8] * 20, "b", now=90.0)
        return scheduler

    def test_a_doubled_queueing_time_makes_a_replica_where_it_is_lightest(self, new_scheduler: NewScheduler):
        scheduler = self.queued(new_scheduler, 1.0, 1.0, 2.1, 2.1)
        assert ask(scheduler, [*TOOL, 50], now=91.0) == ("c", "exploit replicated")

    def test_less_than_doubled_does_not(self, new_scheduler: NewScheduler):
        scheduler = self.queued(new_scheduler, 1.0, 1.0, 1.9, 1.9)
        assert ask(scheduler, [*TOOL, 50], now=91.0) == ("a", "exploit")

    def test_a_longer_prefill_is_no_longer_queue(self, new_scheduler: NewScheduler):
        """Time to first token grows from 12 to 100 ms, the wait in front of the prefill does not."""
        scheduler = new(new_scheduler, window=100.0, autoscale=True, samples=2)
        serve(scheduler, "first", TOOL, "a", now=1.0, wait=0.01)
        for index, uncached in enumerate((2, 2, 90, 90)):
            serve(scheduler, index, [*TOOL, *[index] * uncached], "a", now=10.0 + 20 * index, wait=0.01)
        assert ask(scheduler, [*TOOL, 50], now=91.0) == ("a", "exploit")

    def test_its_prefix_is_the_deepest_node_larger_than_all_above_it(self, new_scheduler: NewScheduler):
        """System prompt 20, tools 100, questions 30: the tools. Without tools, each prompt is its own prefix."""
        scheduler = new(new_scheduler)
        system = [3] * 20
        serve(scheduler, "before", system, "a")
        for index in range(3):
            serve(scheduler, index, [*system, *TOOL, *[index] * 30], "a")
        serve(scheduler, "other", [*system, *[4] * 30], "a")
        policy = scheduler.policy
        keys = {policy.tree.depth(node): prefix.requests for node, prefix in policy.prefixes.items()}
        # The first question was asked when it and the tools were one node.
        assert keys == {20: 1, 150: 1, 120: 2, 50: 1}

    def test_one_request_is_no_trend(self, new_scheduler: NewScheduler):
        scheduler = self.queued(new_scheduler, 1.0, 1.0, 9.0, 9.0, samples=3)
        assert ask(scheduler, [*TOOL, 50], now=91.0) == ("a", "exploit")

    def test_the_wait_of_another_prefix_is_its_own(self, new_scheduler: NewScheduler):
        scheduler = self.queued(new_scheduler, 1.0, 1.0, 2.1, 2.1)
        assert ask(scheduler, [*[8] * 20, 50], now=91.0) == ("b", "exploit")

    def test_its_subtree_is_split_by_load(self, new_scheduler: NewScheduler):
        """Once c has TOOL, what is longer on a (P less by 50 ms) goes where LoadCost is least: c is much lighter.

        b, as light as c, has no replica. When c has got as much as a, a is chosen again.
        """
        scheduler = self.queued(new_scheduler, 1.0, 1.0, 2.1, 2.1)
        ask(scheduler, [*TOOL, 50], now=91.0, id="replica")
        assert ask(scheduler, [*TOOL, *[2] * 50, 7], now=91.5, id="deeper") == ("c", "exploit replicated")
        serve(scheduler, "heavy", [3] * 1000, "c", now=92.0)
        assert ask(scheduler, [*TOOL, *[1] * 50, 7], now=92.5, id="back") == ("a", "exploit replicated")

    def test_one_doubling_makes_one_replica(self, new_scheduler: NewScheduler):
        scheduler = self.queued(new_scheduler, 1.0, 1.0, 2.1, 2.1)
        for id in range(100, 104):
            ask(scheduler, [*TOOL, id], now=91.0, id=id)
        (prefix,) = [prefix for prefix in scheduler.policy.prefixes.values() if prefix.replicas]
        assert prefix.replicas == 0b100

    def test_a_replica_goes_with_its_worker(self, new_scheduler: NewScheduler):
        scheduler = self.queued(new_scheduler, 1.0, 1.0, 2.1, 2.1)
        ask(scheduler, [*TOOL, 50], now=91.0)
        scheduler.remove_worker("c", now=91.0)
        assert not any(prefix.replicas for prefix in scheduler.policy.prefixes.values())
        assert ask(scheduler, [*TOOL, 51], now=91.0, id="next") == ("a", "exploit")

    def test_switched_off(self, new_scheduler: NewScheduler):
        scheduler = self.queued(new_scheduler, 1.0, 1.0, 2.1, 2.1, autoscale=False)
        assert ask(scheduler, [*TOOL, 50], now=91.0) == ("a", "exploit")


class TestForgetting:
    def test_a_node_stays_while_it_is_cached_or_shared(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler, window=180.0)
        tree = scheduler.policy.tree
        serve(scheduler, 1, TOOL, "a", now=0.0)
        scheduler.evicted("a", TOOL, 0, now=1.0)
        ask(scheduler, [5], now=179.0)
        assert tree.match(pack(TOOL)).tokens == 100  # shared in H
        serve(scheduler, "later", [6], "b", now=181.0)
        assert tree.match(pack(TOOL)).tokens == 0

    def test_what_is_cached_stays_beyond_h(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler, window=180.0)
        serve(scheduler, 1, TOOL, "a", now=0.0)
        serve(scheduler, 2, [5], "b", now=500.0)
        assert scheduler.policy.tree.match(pack(TOOL)).tokens == 100
        scheduler.evicted("a", TOOL, 0, now=501.0)
        assert scheduler.policy.tree.match(pack(TOOL)).tokens == 0

    def test_a_removed_worker_is_forgotten_everywhere(self, new_scheduler: NewScheduler):
        scheduler = new(new_scheduler)
        serve(scheduler, 1, TOOL, "a", output=5)
        scheduler.submit(2, [2] * 50, worker="a", now=0.0)
        scheduler.remove_worker("a", now=0.0)
        assert (scheduler.policy.tree.nodes, scheduler.policy.prefixes) == (0, {})
        scheduler.finish(2, now=0.0)
        scheduler.add_worker("c", kv_tokens=1000, now=0.0)
        ask(scheduler, [5])
        assert terms(scheduler, "c").load == 0.0


moments = st.tuples(
    st.sampled_from(["submit", "submit", "first_token", "finish", "cancel", "started", "evicted", "worker"]),
    st.integers(0, 7),
    st.lists(st.integers(0, 1), min_size=1, max_size=10),
    st.sampled_from([0.0, 0.5, 4.0, 12.0]),
)


def happen(scheduler: Scheduler, ids: list[int], what: str, index: int, tokens: list[int], now: float) -> None:
    """Let something happen to the request or worker of that index, if there is any."""
    worker = scheduler.workers[index % len(scheduler.workers)]
    if what == "evicted":
        scheduler.evicted(worker, tokens if index else b"", index, now=now)
    elif what == "worker":
        for lost in scheduler.remove_worker(worker, now=now):
            scheduler.finish(lost, now=now)
            ids.remove(lost)
        scheduler.add_worker(worker, kv_tokens=12, block_size=1 + index // 4, now=now)
    elif what == "submit":
        ids.append(max(ids, default=0) + 1)
        scheduler.submit(ids[-1], tokens, max_tokens=4, now=now)
    elif ids and what == "started":
        scheduler.started(ids[index % len(ids)], cached_tokens=index, now=now)
    elif ids and what == "first_token":
        scheduler.first_token(ids[index % len(ids)], now=now)
    elif ids:
        scheduler.finish(ids.pop(index % len(ids)), output=tokens if what == "finish" else b"", now=now)


@given(st.lists(moments, max_size=40))
def test_any_order_of_events_leaves_its_state_right(events: list[tuple[str, int, list[int], float]]):
    """And what its tree believes cached is what the scheduler's does, token by token; at the end nothing is left."""
    scheduler = Scheduler(E2Paper(window=10.0, samples=1))
    for name, block_size, reports in (("a", 1, True), ("b", 4, True), ("c", 4, False)):
        scheduler.add_worker(name, kv_tokens=20, block_size=block_size, reports_evictions=reports, now=0.0)
    ids: list[int] = []
    now = 0.0
    for what, index, tokens, pause in events:
        now += pause
        happen(scheduler, ids, what, index, tokens, now)
        scheduler.check()
        for slot in scheduler.fleet.present:
            assert scheduler.policy.tree.held_tokens(2 * slot + 1) == scheduler.tree.held_tokens(slot)
    for id in ids:
        scheduler.finish(id, now=now)
    for worker in scheduler.workers:
        scheduler.evicted(worker, b"", 0, now=now)
    for _ in range(2):  # 32 at a time, of at most 40
        pass_by(scheduler, [9], now + 10.0)
    assert (scheduler.policy.tree.nodes, len(scheduler.policy.prefixes)) == (1, 1), "nothing is left but the last two"
    (left,) = scheduler.policy.prefixes.values()
    assert left.requests == 2


def pass_by(scheduler: Scheduler, tokens: list[int], now: float, worker: str | None = None) -> None:
    """A request that is cancelled at once: the policy's occasion to forget what left the window."""
    scheduler.submit("passing", tokens, worker=worker, now=now)
    scheduler.finish("passing", now=now)


def test_after_a_pause_the_window_is_right_at_once_and_its_pins_go_some_at_a_time():
    scheduler = Scheduler(E2Paper(window=10.0))
    scheduler.add_worker("a", kv_tokens=10_000, now=0.0)
    for id in range(200):
        serve(scheduler, id, [id] * 20, "a")
    left = [len(scheduler.policy.prefixes)]
    while left[-1] > 1:
        pass_by(scheduler, [0], 50.0)
        assert len(left) > 1 or terms(scheduler, "a", "passing").load == 0.0
        scheduler.check()
        left.append(len(scheduler.policy.prefixes))
    assert left == [200, *range(169, 1, -32), 1], "32 at a time, and one more prefix"


@pytest.mark.parametrize("when", [9.0, 50.0])
def test_a_worker_that_goes_takes_what_it_had_along(when: float):
    """Also what left the window and is pinned yet."""
    scheduler = Scheduler(E2Paper(window=10.0))
    for worker in "ab":
        scheduler.add_worker(worker, kv_tokens=10_000, now=0.0)
    for id in range(200):
        serve(scheduler, id, [id] * 20, "ab"[id % 2])
    pass_by(scheduler, [1] * 20, when, "b")
    scheduler.remove_worker("a", now=when)
    scheduler.check()
    left = [unpack(scheduler.policy.tree.path(key))[0] for key in scheduler.policy.prefixes]
    assert {id % 2 for id in left} == {1}


@pytest.mark.parametrize(
    ("where", "name", "message"),
    [(Window, "_subtract", "requests in the window"), (E2Paper, "_forget", "key portions")],
)
def test_a_planted_leak_is_found(monkeypatch: pytest.MonkeyPatch, where: type, name: str, message: str):
    scheduler = Scheduler(E2Paper(window=10.0))
    scheduler.add_worker("a", kv_tokens=100, now=0.0)
    serve(scheduler, 1, TOOL, "a")
    monkeypatch.setattr(where, name, lambda *arguments: None)
    serve(scheduler, 2, [5], "a", now=10.0)
    with pytest.raises(AssertionError, match=message):
        scheduler.check()


def test_a_trend_goes_through_its_halves():
    trend, trends = Trend(), Trends(10.0)
    seen = []
    for now, value in ((0.0, 1.0), (4.0, 2.0), (5.0, 8.0), (9.0, 8.0), (10.0, 8.0), (30.0, 8.0)):
        trends.expire(now)
        trends.add(trend, value, now)
        trends.check()
        seen.append((trend.older, trend.older_sum, trend.newer, trend.newer_sum, trend.doubled(1)))
    assert seen == [
        (0, 0.0, 1, 1.0, False),
        (0, 0.0, 2, 3.0, False),
        (1, 1.0, 2, 10.0, True),
        (2, 3.0, 2, 16.0, True),
        (2, 10.0, 2, 16.0, False),
        (0, 0.0, 1, 8.0, False),
    ]
    trend.newer = 7
    with pytest.raises(AssertionError, match="count of a trend"):
        trends.check()


class TestTree:
    """What this policy asks of the tree."""

    def test_pins_below_counts_what_is_in_flight_at_a_node_or_below(self):
        tree = RadixTree()
        whole = tree.insert(pack([1, 2, 3]), 0)
        half = tree.insert(pack([1, 2]), 0)
        tree.pin(half, 1)
        assert [tree.pins_below(node, 0) for node in (half, whole)] == [2, 1]
        assert [tree.pins_below(node, 1) for node in (half, whole)] == [1, 0]
        tree.mark_computed(whole, 0)
        assert tree.pins_below(half, 0) == 0
        tree.check()

    def test_only_a_node_can_be_pinned(self):
        tree = RadixTree()
        for nowhere in (1, 7777, -1):
            with pytest.raises(StateError, match="there is no node"):
                tree.pin(nowhere, 1)
        tree.pin(0, 1)
        assert tree.held_tokens(1) == 0
