"""Copies of hot prefixes, carried out: on running workers and in simulations."""

from __future__ import annotations

from preble import PrebleCluster
from preble.core.copies import Copy
from preble.core.policies.e2.policy import E2
from preble.simulate import Request, SimOptions, simulate
from preble.simulate.changes import Change
from preble.tokens import pack
from tests.cluster.cases import GREEDY, eventually, prompt
from tests.policies import First

HOT = prompt(1)


async def test_a_cluster_lets_the_worker_compute_it() -> None:
    policy = First()
    async with PrebleCluster(backend="sim", workers=2, policy=policy) as cluster:
        await cluster.generate(HOT, GREEDY)
        policy.proposed = [Copy(pack(HOT), "w1")]
        await eventually(lambda: cluster.stats().counters.copied == 1)
        await eventually(lambda: cluster.scheduler.requests_on("w1") == 0)
        assert cluster.stats().counters.submitted == 1, "nobody asked for it"
        policy.index = 1
        out = await cluster.generate([*HOT, 5], GREEDY)
        assert (out.worker, out.usage.cached_tokens) == ("w1", len(HOT) - len(HOT) % 16)
        cluster.check()


async def test_a_worker_that_dies_takes_its_copies_with_it() -> None:
    policy = First()
    async with PrebleCluster(backend="sim", workers=2, policy=policy) as cluster:
        policy.proposed = [Copy(pack([3] * 100_000), "w1")]
        await eventually(lambda: cluster.stats().counters.copied == 1)
        await cluster.remove_worker("w1")
        await cluster.generate(HOT, GREEDY)
        cluster.check()


def shared(sessions: int) -> list[Request]:
    """Short questions about one long text, slow enough for one worker to serve them all."""
    return [Request(segments=((1, 4000), (10 + n, 20)), output_tokens=60, arrival=0.4 * n) for n in range(sessions)]


def test_one_prefix_for_all_is_not_served_by_one_worker_alone() -> None:
    dear = {"weight": 2.5, "delay": 0.2, "busy": 0.0}
    alone = simulate(shared(300), policy=E2(**dear, replicates=False), workers=4)
    spread = simulate(shared(300), policy=E2(**dear), workers=4)
    assert alone.summary().imbalance > 3.9, "no request by itself should pay for a copy"
    assert spread.summary().imbalance < 2.5
    assert 1 <= spread.summary().copied <= 6
    assert spread.summary().ttft_mean < alone.summary().ttft_mean


def test_what_a_lost_worker_was_copying_is_forgotten() -> None:
    options = SimOptions(kv_tokens=100_000)
    changes = [Change(0.5 * n, n % 3, "crash") for n in range(1, 3)]
    result = simulate(shared(100), policy=E2(weight=0.1), workers=4, options=options, changes=changes)
    assert result.finished.all()
