from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.errors import ConfigurationError, NoWorkersError
from preble.tokens import pack
from tests.core.conftest import LINEAR

NewScheduler = Callable[..., Scheduler]


def load(scheduler: Scheduler, worker: str) -> float:
    return next(state.load for state in scheduler.snapshot().workers if state.worker == worker)


class TestDrain:
    @pytest.mark.parametrize("policy", sorted(POLICIES))
    def test_no_policy_chooses_a_drained_worker(self, new_scheduler: NewScheduler, policy: str):
        scheduler = new_scheduler("abc", policy=policy)
        for id in range(9):
            scheduler.submit(id, [1, 2, 3, id], session="s", now=0.0)
            scheduler.first_token(id, now=0.0)
        scheduler.drain_worker("b", now=1.0)
        chosen = {scheduler.submit(id, [1, 2, 3, id], session="s", now=1.0).worker for id in range(10, 40)}
        assert chosen <= {"a", "c"}
        scheduler.drain_worker("a", now=1.0)
        for id in range(40, 50):
            assert scheduler.submit(id, [1, 2, 3, id], session=f"s{id}", now=1.0).worker == "c"
        for id in [*range(9), *range(10, 50)]:
            scheduler.finish(id, output=[1], now=2.0)
            scheduler.check()
        scheduler.remove_worker("b", now=3.0)
        assert scheduler.submit(50, [1, 2, 3], session="s", now=3.0).worker == "c"

    @pytest.mark.parametrize("policy", sorted(POLICIES))
    def test_with_all_drained_nobody_takes_requests(self, new_scheduler: NewScheduler, policy: str):
        scheduler = new_scheduler("ab", policy=policy)
        scheduler.drain_worker("a", now=0.0)
        scheduler.drain_worker("b", now=0.0)
        with pytest.raises(NoWorkersError):
            scheduler.submit(1, [1], now=0.0)
        assert scheduler.snapshot().requests == 0

    def test_its_requests_go_on_and_its_books_stay_right(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("a")
        for id in range(3):
            scheduler.submit(id, [id] * 100, max_tokens=0, now=0.0)
        scheduler.drain_worker("a", now=0.0)
        assert load(scheduler, "a") == pytest.approx(0.3)
        scheduler.started(0, cached_tokens=50, now=1.0)
        assert load(scheduler, "a") == pytest.approx(0.25)
        scheduler.first_token(0, now=1.0)
        assert (load(scheduler, "a"), scheduler.requests_on("a")) == (pytest.approx(0.2), 3)
        for id in range(3):
            scheduler.check()
            scheduler.finish(id, output=[5, 6], now=2.0)
        assert (load(scheduler, "a"), scheduler.requests_on("a")) == (0.0, 0)
        assert np.isinf(scheduler.fleet.load[0])

    def test_the_caller_cannot_assign_it_one(self, scheduler: Scheduler):
        scheduler.drain_worker("a", now=0.0)
        with pytest.raises(ConfigurationError, match="'a' is drained"):
            scheduler.submit(1, [1], worker="a", now=0.0)

    def test_what_waits_there_may_be_moved_away(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("ab")
        for id in range(4):
            scheduler.submit(id, [id] * 100, worker="a", now=0.0)
        scheduler.started(0, cached_tokens=0, now=0.0)
        scheduler.drain_worker("a", now=0.0)
        moves = scheduler.rebalance(0.0)
        assert {move.id for move in moves} <= {1, 2, 3}
        assert {(move.source, move.target) for move in moves} == {("a", "b")}

    def test_twice_is_once_and_nobody_is_an_error(self, scheduler: Scheduler):
        scheduler.drain_worker("a", now=0.0)
        scheduler.drain_worker("a", now=0.0)
        assert scheduler.workers == ["a", "b"]
        with pytest.raises(ConfigurationError):
            scheduler.drain_worker("z", now=0.0)
        assert scheduler.requests_on("z") == 0


class TestSlots:
    def test_a_removed_worker_is_forgotten_and_its_slot_serves_another(self, new_scheduler: NewScheduler):
        scheduler = new_scheduler("ab")
        scheduler.submit(1, [1] * 100, worker="a", now=0.0)
        scheduler.finish(1, output=[2, 3], now=0.0)
        scheduler.drain_worker("a", now=0.0)
        scheduler.remove_worker("a", now=0.0)
        assert scheduler.snapshot().tree_nodes == 0
        scheduler.add_worker("c", kv_tokens=70, cost=LINEAR, now=1.0)
        assert (scheduler.workers, scheduler.fleet.slot("c")) == (["c", "b"], 0)
        assert scheduler.tree.match(pack([1] * 100)).tokens == 0
        assert (scheduler.fleet.load[0], scheduler.fleet.pending[0], scheduler.fleet.free[0]) == (0.0, 0.0, 70.0)
        assert scheduler.submit(2, [9], worker="c", now=1.0).worker == "c"

    @pytest.mark.parametrize("policy", sorted(POLICIES))
    def test_workers_come_and_go_under_load(self, new_scheduler: NewScheduler, policy: str):
        scheduler = new_scheduler("ab", policy=policy)
        running: set[int] = set()
        for step in range(60):
            now = float(step)
            placement = scheduler.submit(step, [step % 4] * 30 + [step], session=f"s{step % 3}", now=now)
            assert placement.worker in scheduler.workers
            running.add(step)
            if step % 10 == 3:
                scheduler.add_worker(f"n{step}", kv_tokens=200, cost=LINEAR, now=now)
            if step % 10 == 6:
                scheduler.drain_worker(f"n{step - 3}", now=now)
            if step % 10 == 9:
                for orphan in scheduler.remove_worker(f"n{step - 6}", now=now):
                    scheduler.submit(orphan, [orphan % 4] * 30 + [orphan], now=now)
            if step % 3 == 2:
                scheduler.finish(running.pop(), output=[7, 7], now=now)
            scheduler.check()
        for id in running:
            scheduler.finish(id, now=99.0)
        assert scheduler.workers == ["a", "b"]
        assert all((state.load, state.requests) == (0.0, 0) for state in scheduler.snapshot().workers)
