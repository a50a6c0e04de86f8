from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.errors import InvalidRequestError
from preble.tokens import pack
from preble.tree import fold
from tests.core.conftest import LINEAR

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
    folded = {fold(namespace, tenant) for namespace, tenant in [("a", "b"), ("ab", ""), ("", "ab"), ("1:a", "b")]}
    assert len(folded) == 4
    assert fold("", "") == ""


def test_a_namespace_costs_no_token(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a")
    serve(scheduler, 1, tenant="x")
    assert scheduler.snapshot().tree_tokens == len(PROMPT) + 1


def test_evictions_are_of_one_salt(new_scheduler: NewScheduler):
    scheduler = new_scheduler("a", reports_evictions=True)
    for id, tenant in enumerate(["x", "y", ""]):
        serve(scheduler, id, tenant=tenant)
    scheduler.evicted("a", PROMPT, 10, salt=fold("", "x"), now=5.0)
    assert [serve(scheduler, 10 + id, tenant=tenant) for id, tenant in enumerate(["x", "y", ""])] == [10, 59, 59]
    scheduler.evicted("a", PROMPT, 0, salt=fold("", "never seen"), now=5.0)
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
