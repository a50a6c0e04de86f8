"""Workers that crash, drain and join in virtual time, and workers that differ."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from preble.backends import EngineRequest
from preble.backends.sim import SimCore
from preble.core.cost import CostModel
from preble.core.scheduler import Scheduler
from preble.dispatch.dispatcher import MAX_ATTEMPTS
from preble.errors import ConfigurationError
from preble.simulate import Change, Request, SimOptions, segment_tokens, simulate
from preble.simulate.changes import absent
from preble.simulate.run import Run
from preble.simulate.worker import Worker
from preble.types import SamplingParams
from tests.policies import To
from tests.simulate.test_simulate import COST, OPTIONS, prompt, traffic

TIGHT = SimOptions(kv_tokens=400, block_size=4, max_batched_tokens=256, cost=COST)
"""Room for two answers of `talkers` at their full length, not for three."""


@pytest.fixture
def new_run() -> Iterator[Callable[..., Run]]:
    """Make runs; afterwards their books must be right, and empty."""
    made: list[Run] = []

    def new(
        requests: list[Request], changes: list[Change], policy: Any = "e2", workers: int = 2, **options: Any
    ) -> Run:
        scheduler = Scheduler(policy)
        engines = [Worker(index, OPTIONS) for index in range(workers)]
        for engine in engines:
            engine.join(scheduler, 0.0)
        delays = {"report_delay": 0.0, "rebalance_interval": 0.25, **options}
        made.append(Run(requests, scheduler, engines, progress=bool, changes=changes, **delays))
        return made[-1]

    yield new
    for run in made:
        run.check()
        assert run.idle


def talkers(requests: int = 3) -> list[Request]:
    """Short prompts, long answers."""
    return [prompt((index, 60), output=100, arrival=0.01 * index) for index in range(requests)]


class TestPreemption:
    def test_what_does_not_fit_is_preempted_and_counted(self):
        result = simulate(talkers(), workers=1, options=TIGHT)
        assert result.finished.all()
        summary = result.summary()
        assert summary.preemptions == result.preemptions[0] > 0
        assert summary.recomputed == result.recomputed[0] > 0

    def test_nothing_is_counted_where_all_fits(self):
        summary = simulate(talkers(2), workers=1, options=TIGHT).summary()
        assert (summary.preemptions, summary.recomputed) == (0, 0)

    def test_recomputed_is_what_the_engine_computed_beyond_need(self):
        core, computed, cached, now = SimCore(TIGHT), 0, 0, 0.0
        for id in range(4):
            sampling = SamplingParams(max_tokens=100, ignore_eos=True)
            core.batcher.add(EngineRequest(id, segment_tokens(id, 60), sampling), now)
        while (end := core.begin(now)) is not None:
            now = end
            computed += core.end(now).new
            cached += sum(delta.cached_tokens or 0 for _, delta in core.batcher.deltas())
        assert core.batcher.preemptions > 0
        assert computed == 4 * (60 + 99) - cached + core.batcher.recomputed


class TestCrash:
    def test_what_was_generated_is_kept_and_gone_on_from(self, new_run: Callable[..., Run]):
        requests = [prompt((0, 100), output=50), prompt((1, 100), output=50, arrival=0.01)]
        policy = To(0, 1, 1)
        whole = simulate(requests, policy=To(0, 1), workers=2, options=OPTIONS)
        result = new_run(requests, [Change(0.15, 0, "crash")], policy).run()
        assert result.worker.tolist() == [1, 1]
        assert result.retries.tolist() == [1, 0]
        assert 100 < policy.asked[2].length < 150, "the prompt and what there was of the answer"
        assert policy.asked[2].length + policy.asked[2].max_tokens == 150
        assert result.ttft[0] == whole.ttft[0], "the first token had come"
        assert result.output_tokens.tolist() == [50, 50]
        assert result.summary().retries == 1

    def test_a_step_under_way_is_never_heard_of(self, new_run: Callable[..., Run]):
        result = new_run([prompt((0, 100), output=1)], [Change(0.05, 0, "crash")], To(0, 1)).run()
        assert result.ttft[0] == pytest.approx(0.05 + 0.101)
        assert result.busy.tolist() == pytest.approx([0.0, 0.101])

    def test_a_worker_comes_back_with_an_empty_cache(self, new_run: Callable[..., Run]):
        requests = [prompt((0, 100), arrival=at) for at in (0.0, 1.0, 4.0, 5.0)]
        changes = [Change(2.0, 0, "crash"), Change(3.0, 0, "join")]
        assert new_run(requests, changes, workers=1).run().cached.tolist() == [0, 96, 0, 96]

    def test_without_workers_requests_fail_until_one_is_back(self, new_run: Callable[..., Run]):
        requests = [prompt((0, 100), output=9, arrival=at) for at in (0.0, 1.0, 3.0)]
        changes = [Change(0.05, 0, "crash"), Change(2.0, 0, "join")]
        assert new_run(requests, changes, workers=1).run().finished.tolist() == [False, False, True]

    def test_three_workers_are_tried_as_live(self, new_run: Callable[..., Run]):
        changes = [Change(0.05 * (index + 1), index, "crash") for index in range(3)]
        result = new_run([prompt((0, 900))], changes, To(0, 1, 2, 3), workers=4).run()
        assert (result.worker[0], result.retries[0], result.finished[0]) == (2, MAX_ATTEMPTS - 1, False)

    @pytest.mark.parametrize("crashes", [2, 8])
    @pytest.mark.parametrize("seed", range(3))
    def test_the_books_are_right_all_along(self, seed: int, crashes: int, new_run: Callable[..., Run]):
        """Four workers that crash and come back, one at a time; late reports, moves and a session."""
        draw = random.Random(seed)
        changes = []
        for round in range(crashes):
            worker, at = draw.randrange(4), 0.5 * round + 0.3 * draw.random()
            changes += [Change(at, worker, "crash"), Change(at + 0.19, worker, "join")]
        turns = [
            prompt((0, 300), output=9, session="s", turn=turn, gap=0.1, arrival=None if turn else 0.0)
            for turn in range(9)
        ]
        moves = 0.25 if crashes > 2 else 0.0
        run = new_run([*traffic(80), *turns], changes, workers=4, report_delay=0.02, rebalance_interval=moves)
        for number, _ in enumerate(run.events()):
            if number % 20 == 0:
                run.check()
        result = run.result
        assert result.retries.any()
        tried = 1 + result.retries + result.moved
        assert (result.finished | (tried == MAX_ATTEMPTS)).all(), "who fails has lost three workers"
        assert result.finished.all() or crashes > 2, "nobody can lose three"

    def test_the_same_crashes_give_the_same_result(self):
        changes = [Change(0.3, worker, "crash") for worker in range(3)] + [Change(1.1, 0, "join")]
        first, again = (simulate(traffic(), options=OPTIONS, changes=changes) for _ in range(2))
        assert np.array_equal(first.latency, again.latency)
        assert first.retries.any()


class TestDrain:
    def test_what_runs_ends_there_and_nothing_follows(self, new_run: Callable[..., Run]):
        requests = [prompt((index, 100), output=30, arrival=0.2 * index) for index in range(10)]
        run = new_run(requests, [Change(0.5, 0, "drain")], "round-robin")
        result = run.run()
        assert result.finished.all()
        assert result.worker.tolist() == [0, 1, 0, 1, 1, 1, 1, 1, 1, 1]
        assert result.retries.sum() == 0

    def test_an_idle_one_leaves_at_once_and_may_not_crash_again(self, new_run: Callable[..., Run]):
        run = new_run([prompt((0, 9), arrival=2.0)], [Change(0.5, 0, "drain"), Change(1.0, 0, "crash")])
        assert run.run().worker.tolist() == [1]

    def test_one_that_crashes_while_it_drains(self, new_run: Callable[..., Run]):
        run = new_run([prompt((0, 900))], [Change(0.1, 0, "drain"), Change(0.2, 0, "crash")], To(0, 1))
        assert run.run().worker.tolist() == [1]


class TestJoin:
    def test_who_joins_first_is_not_there_before(self):
        requests = [prompt((index, 100), arrival=float(index)) for index in range(10)]
        result = simulate(requests, policy="round-robin", workers=2, options=OPTIONS, changes=[Change(4.5, 1, "join")])
        assert set(result.worker[:5]) == {0}
        assert set(result.worker[5:]) == {0, 1}

    @pytest.mark.parametrize("prefixes", [1, 12])
    def test_a_newcomer_with_an_empty_cache_gets_its_share(self, prefixes: int):
        """One prefix that all have but the newcomer, or many with homes elsewhere; three workers cannot serve all."""
        draw = random.Random(0)
        requests = [
            prompt((draw.randrange(prefixes), 200), (100 + index, 100), output=20, arrival=0.035 * index, max_tokens=20)
            for index in range(600)
        ]
        result = simulate(requests, workers=4, options=OPTIONS, changes=[Change(10.5, 3, "join")])
        after = result.worker[result.arrival >= 10.5]
        assert 0.12 <= (after[:100] == 3).mean() <= 0.4, "within a hundred requests"
        assert 0.15 <= (after[100:] == 3).mean() <= 0.35


class TestDifferentWorkers:
    def test_a_worker_of_twice_the_speed_does_twice_the_work(self):
        slow = CostModel(pieces=((0, 2.0, 2.0, 0.0),))
        workers = [OPTIONS, SimOptions(kv_tokens=4_000, block_size=4, max_batched_tokens=256, cost=slow)]
        requests = [prompt((index, 200), output=4, arrival=0.12 * index) for index in range(400)]
        computed = simulate(requests, workers=workers).computed
        assert computed[0] / computed[1] == pytest.approx(2.0, rel=0.25)

    def test_of_a_worker_that_is_believed_equal_the_speed_is_learned(self):
        slow = CostModel(pieces=((0, 3.0, 3.0, 0.0),))
        workers = [OPTIONS, SimOptions(kv_tokens=4_000, block_size=4, max_batched_tokens=256, cost=slow)]
        requests = [prompt((index, 200), output=4, arrival=0.2 * index) for index in range(400)]
        computed = simulate(requests, workers=workers, believed_cost=COST).computed
        assert computed[0] > 2 * computed[1]

    def test_a_larger_cache_is_home_to_more_prefixes(self):
        workers = [
            SimOptions(kv_tokens=size, block_size=4, max_batched_tokens=256, cost=COST) for size in (1_200, 6_000)
        ]
        draw = random.Random(0)
        requests = [
            prompt((draw.randrange(10), 500), (10 + index, 20), output=2, arrival=0.3 * index) for index in range(400)
        ]
        e2, blind = (simulate(requests, workers=workers, policy=policy) for policy in ("e2", "round-robin"))
        homes = [
            len({requests[index].segments[0] for index in np.flatnonzero(e2.worker[200:] == w) + 200}) for w in (0, 1)
        ]
        assert homes[1] > homes[0]
        assert e2.summary().hit_ratio > 1.3 * blind.summary().hit_ratio


@pytest.mark.parametrize(
    "changes",
    [
        [Change(0.0, 4, "crash")],
        [Change(0.0, -1, "join")],
        [Change(0.0, 0, "crash"), Change(1.0, 0, "crash")],
        [Change(0.0, 0, "join"), Change(1.0, 0, "join")],
        [Change(0.0, 0, "drain"), Change(1.0, 0, "join")],
        [Change(0.0, 0, "explode")],  # type: ignore[arg-type]
    ],
)
def test_changes_that_make_no_sense(changes: list[Change]):
    with pytest.raises(ConfigurationError, match="changes"):
        simulate(traffic(3), workers=4, changes=changes)


def test_absent_are_those_that_join_first():
    assert absent([Change(1.0, 0, "crash"), Change(1.0, 2, "join"), Change(2.0, 0, "join")], 3) == {2}


def test_two_workers_may_drain_at_once_while_reports_are_late():
    """Losing the first looks for others that are done: the second is lost there, and once."""
    requests = [prompt((index, 4000), output=1, arrival=0.01 * index) for index in range(30)]
    changes = [Change(0.4, worker, "drain") for worker in (0, 1)]
    assert simulate(requests, workers=4, report_delay=0.5, changes=changes).finished.all()
