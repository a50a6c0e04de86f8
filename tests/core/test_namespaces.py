from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.errors import ConfigurationError, InvalidRequestError, NamespaceNotServedError, NoWorkersError
from preble.tokens import pack
from preble.tree import cache_salt
from tests.core.conftest import LINEAR
from tests.policies import To

NewScheduler = Callable[..., Scheduler]

PROMPT = list(range(100, 160))


def serve(scheduler: Scheduler, id: int, tokens: list[int] = PROMPT, **options: str) -> int:
    """Run a request to its end; return the tokens believed cached."""
    placement = scheduler.submit(id, tokens, now=float(id), **options)
    scheduler.finish(id, output=[7, 8], now=float(id))
    return placement.cached_tokens


def test_tenants_share_with_themselves_only(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a")
    assert serve(scheduler, 1, tenant="x") == 0
    assert serve(scheduler, 2, tenant="y") == 0
    assert serve(scheduler, 3) == 0
    assert serve(scheduler, 4, tenant="x") == serve(scheduler, 5, tenant="y") == serve(scheduler, 6) == 59


def test_namespaces_share_with_themselves_only(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a")
    assert serve(scheduler, 1, namespace="x") == 0
    assert serve(scheduler, 2, tenant="x") == 0
    assert serve(scheduler, 3, namespace="x", tenant="x") == 0
    assert serve(scheduler, 4, namespace="x") == 59


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_policy_believes_one_tenant_s_prefix_to_be_another_s(new_scheduler: NewScheduler, policy: str):
    scheduler = new_scheduler("ab", policy=policy)
    for id in range(4):
        serve(scheduler, id, tenant="x")
    scheduler.submit(9, PROMPT, tenant="y", now=9.0)
    assert [candidate.cached_tokens for candidate in scheduler.explain(9).candidates] == [0, 0]


def test_names_that_look_alike_when_joined_are_different():
    salts = {cache_salt(namespace, tenant) for namespace, tenant in [("a", "b"), ("ab", ""), ("", "ab"), ("1:a", "b")]}
    assert len(salts) == 4
    assert cache_salt("", "") == ""


def test_a_namespace_costs_no_token(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a")
    serve(scheduler, 1, tenant="x")
    assert scheduler.snapshot().tree_tokens == len(PROMPT) + 1


def test_evictions_are_of_one_salt(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a", reports_evictions=True)
    for id, tenant in enumerate(["x", "y", ""]):
        serve(scheduler, id, tenant=tenant)
    scheduler.evicted("a", PROMPT, 10, cache_salt=cache_salt("", "x"), now=5.0)
    assert [serve(scheduler, 10 + id, tenant=tenant) for id, tenant in enumerate(["x", "y", ""])] == [10, 59, 59]
    scheduler.evicted("a", PROMPT, 0, cache_salt=cache_salt("", "never seen"), now=5.0)
    scheduler.evicted("a", b"", 0, now=5.0)
    assert scheduler.snapshot().tree_nodes == 0


def test_a_negative_first_token_is_refused(scheduler: Scheduler):
    """It could be the key of another tenant."""
    for tenant in ("", "x"):
        with pytest.raises(InvalidRequestError, match="negative"):
            scheduler.submit(1, [-1, 2], tenant=tenant, now=0.0)


def test_orphans_keep_their_namespace_apart(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab")
    scheduler.submit(1, PROMPT, tenant="x", worker="a", now=0.0)
    scheduler.remove_worker("a", now=0.0)
    assert scheduler.submit(1, PROMPT, tenant="x", now=0.0).worker == "b"
    assert serve(scheduler, 2, tenant="y") == 0


def test_namespaces_that_nobody_uses_are_forgotten(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a", kv_tokens=130)
    for id in range(1000):
        serve(scheduler, id, tenant=f"t{id}")
    assert len(scheduler._namespaces) < 10
    assert serve(scheduler, 2000, tenant="t999") == 59


short = st.lists(st.integers(0, 2), min_size=1, max_size=6)
salts = st.sampled_from(["", "x", "y", "z"])


@given(st.lists(st.tuples(short, salts, salts), max_size=30))
def test_what_is_believed_cached_was_seen_in_the_same_namespace(requests: list[tuple[list[int], str, str]]):
    scheduler = Scheduler()
    scheduler.add_worker("a", kv_tokens=100_000, cost=LINEAR, now=0.0)
    seen: dict[tuple[str, str], list[list[int]]] = {}
    for id, (tokens, namespace, tenant) in enumerate(requests):
        before = seen.setdefault((namespace, tenant), [])
        shared = max((common(tokens, other) for other in before), default=0)
        placement = scheduler.submit(id, tokens, namespace=namespace, tenant=tenant, now=0.0)
        assert placement.cached_tokens == min(shared, len(tokens) - 1)
        scheduler.finish(id, output=[5, 5], now=0.0)
        scheduler.check()
        before.append([*tokens, 5])
    assert len(scheduler._namespaces) <= 3 * 16
    held = {first for first in range(3) if scheduler.tree.match(pack([first])).tokens}
    assert held == {tokens[0] for tokens in seen.get(("", ""), [])}


def common(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


# --- workers that serve certain namespaces only ---


def place(scheduler: Scheduler, id: int, namespace: str = "", **options: object) -> str:
    return scheduler.submit(id, [id] * 100, namespace=namespace, now=0.0, **options).worker


@pytest.fixture
def parted(new_scheduler: NewScheduler) -> Scheduler:
    """`a` serves all, `b` only x, `c` only x and requests without a namespace."""
    scheduler = new_scheduler("a")
    scheduler.add_worker("b", kv_tokens=1000, cost=LINEAR, namespaces=["x"], now=0.0)
    scheduler.add_worker("c", kv_tokens=1000, cost=LINEAR, namespaces=["x", ""], now=0.0)
    return scheduler


def test_a_worker_gets_its_own_namespaces_only(parted: Scheduler):
    found = {
        name: {place(parted, 10 * index + id, name) for id in range(10)} for index, name in enumerate(["x", "", "y"])
    }
    assert found == {"x": {"a", "b", "c"}, "": {"a", "c"}, "y": {"a"}}


def test_a_namespace_that_nobody_serves_is_named(parted: Scheduler):
    parted.drain_worker("a", now=0.0)
    with pytest.raises(NamespaceNotServedError, match="no worker serves namespace 'y'") as raised:
        place(parted, 1, "y")
    assert raised.value.namespace == "y"
    assert parted.snapshot().requests == 0
    parted.add_worker("d", kv_tokens=1000, cost=LINEAR, now=0.0)
    assert place(parted, 1, "y") == "d"
    for worker in "bcd":
        parted.drain_worker(worker, now=0.0)
    with pytest.raises(NoWorkersError, match="no worker can take"):
        place(parted, 2, "y")


def test_the_caller_cannot_assign_a_worker_what_it_does_not_serve(parted: Scheduler):
    with pytest.raises(ConfigurationError, match="'b' does not serve"):
        place(parted, 1, worker="b")
    assert place(parted, 1, "x", worker="b") == "b"


def test_a_policy_that_chooses_one_anyway_is_refused(new_scheduler: NewScheduler):
    scheduler = new_scheduler("", policy=To(0))
    for worker in "ab":
        scheduler.add_worker(worker, kv_tokens=1000, cost=LINEAR, namespaces=[worker], now=0.0)
    assert place(scheduler, 1, "a") == "a"
    with pytest.raises(ConfigurationError, match="chose slot 0"):
        place(scheduler, 2, "b")


def test_nothing_is_moved_to_where_it_is_not_served(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a")
    scheduler.add_worker("b", kv_tokens=1000, cost=LINEAR, namespaces=["x"], now=0.0)
    for id, namespace in enumerate(["", "", "x", "", "x", ""]):
        place(scheduler, id, namespace, worker="a")
    moves = scheduler.rebalance(0.0)
    assert {(move.id, move.target) for move in moves} == {(2, "b"), (4, "b")}


def test_a_receipt_names_those_that_could_have_taken_it(parted: Scheduler):
    place(parted, 1)
    assert [candidate.worker for candidate in parted.explain(1).candidates] == ["a", "c"]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_with_a_worker_per_namespace_there_is_no_choice(new_scheduler: NewScheduler, policy: str):
    scheduler = new_scheduler("", policy=policy)
    for worker in "abc":
        scheduler.add_worker(worker, kv_tokens=1000, cost=LINEAR, namespaces=[worker], now=0.0)
    for id in range(30):
        assert scheduler.submit(id, PROMPT, namespace="abc"[id % 3], session="s", now=0.0).worker == "abc"[id % 3]
    for id in range(30):
        scheduler.first_token(id, now=1.0)
        scheduler.finish(id, output=[1, 2], now=1.0)
        assert scheduler.submit(id, PROMPT, namespace="cab"[id % 3], session="s", now=1.0).worker == "cab"[id % 3]


def test_workers_that_share_a_namespace_take_turns_whoever_else_is_served(new_scheduler: NewScheduler):
    scheduler = new_scheduler("", policy="round-robin")
    for worker, name in zip("abcd", "xxyy", strict=True):
        scheduler.add_worker(worker, kv_tokens=1000, cost=LINEAR, namespaces=[name], now=0.0)
    assert [place(scheduler, id, "xy"[id % 2]) for id in range(8)] == list("acbdacbd")


def test_where_all_serve_everything_the_fleet_is_asked_as_it_is(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab")
    assert scheduler.fleet.serving("x") is scheduler.fleet
    scheduler.add_worker("c", kv_tokens=1000, namespaces=["y"], now=0.0)
    assert scheduler.fleet.serving("x").live == [0, 1]
    scheduler.remove_worker("c", now=0.0)
    assert scheduler.fleet.serving("x") is scheduler.fleet


@pytest.mark.parametrize("names", [[], "x", [1]])
def test_namespaces_are_a_collection_of_names(new_scheduler: NewScheduler, names: Any):
    scheduler = new_scheduler("a")
    with pytest.raises(ConfigurationError, match="namespaces: must be names"):
        scheduler.add_worker("b", kv_tokens=1000, namespaces=names, now=0.0)
    assert scheduler.workers == ["a"]
