"""Costs in blocks of 16 tokens. The prompt asked about has 4 blocks, so an empty idle worker costs 4 + 4."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preble.core.policies.baselines.dynamo_kv import DynamoKv
from preble.core.scheduler import Scheduler
from preble.tree import RadixTree
from tests.core.conftest import LINEAR
from tests.core.policies.conftest import asked, send

NewScheduler = Callable[..., Scheduler]

PROMPT = list(range(64))


@pytest.mark.parametrize(("blocks", "workers"), [(3, {"a"}), (4, {"a", "b"}), (5, {"b"})])
def test_a_decoding_block_weighs_as_much_as_one_cached(new_scheduler: NewScheduler, blocks: int, workers: set[str]):
    """a: (64 / 16 - 4 cached) + blocks + 4 new, since idle cached blocks are new too; b: 4 + 4."""
    scheduler = new_scheduler("ab", policy="dynamo-kv")
    send(scheduler, "a", PROMPT, state="done")
    send(scheduler, "a", [500] * 16 * blocks, state="running")
    assert asked(scheduler, PROMPT) == workers


def test_a_prefix_in_flight_is_not_cached_but_its_blocks_are_shared(new_scheduler: NewScheduler):
    """a: (64 + 64) / 16 + 4 + 0 = 12 against 8; when it is computed: 0 + 4 + 0 against 8."""
    scheduler = new_scheduler("ab", policy="dynamo-kv")
    id = send(scheduler, "a", PROMPT)
    assert asked(scheduler, PROMPT) == {"b"}
    scheduler.first_token(id, now=0.0)
    assert asked(scheduler, PROMPT) == {"a"}


@pytest.mark.parametrize(("tokens", "worker"), [(31, "a"), (33, "b")])
def test_waiting_prefill_counts_by_the_token_and_blocks_whole(new_scheduler: NewScheduler, tokens: int, worker: str):
    """a waits with 31 tokens: 31 / 16 + 1 = 2.94 blocks, or with 33: 2.06 + 2 = 4.06; b decodes 3 or 4 blocks."""
    scheduler = new_scheduler("ab", policy="dynamo-kv")
    send(scheduler, "a", [500] * tokens)
    send(scheduler, "b", [600] * (48 if tokens == 31 else 64), state="running")
    assert asked(scheduler, PROMPT) == {worker}


def test_blocks_that_requests_share_count_once(new_scheduler: NewScheduler):
    """a decodes one prefix of 5 blocks three times: 5, less than 6 on b."""
    scheduler = new_scheduler("ab", policy="dynamo-kv")
    for _ in range(3):
        send(scheduler, "a", [500] * 80, state="running")
    send(scheduler, "b", [600] * 96, state="running")
    assert asked(scheduler, PROMPT) == {"a"}


def test_everything_booked_is_released(new_scheduler: NewScheduler):
    policy = DynamoKv()
    scheduler = new_scheduler("ab", policy=policy)
    ids = [send(scheduler, "ab"[number % 2], PROMPT[: 20 * number + 1]) for number in range(4)]
    assert [policy.unfinished.tokens(slot) for slot in (0, 1)] == [32, 48]
    scheduler.remove_worker("a", now=0.0)
    assert policy.unfinished.tokens(0) == 0
    scheduler.add_worker("c", kv_tokens=1000, cost=LINEAR, now=0.0)
    for id in ids:
        scheduler.finish(id, now=0.0)
    assert policy.unfinished.tree.tokens == 0
    policy.check()


def test_a_planted_leak_is_found(monkeypatch: pytest.MonkeyPatch):
    policy = DynamoKv()
    scheduler = Scheduler(policy)
    scheduler.add_worker("a", kv_tokens=1000, cost=LINEAR, now=0.0)
    id = send(scheduler, "a", PROMPT)
    with monkeypatch.context() as patch:
        patch.setattr(RadixTree, "unpin", lambda *_: None)
        scheduler.finish(id, now=0.0)
    with pytest.raises(AssertionError, match="left of nothing"):
        policy.check()
