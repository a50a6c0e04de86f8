"""Scores 2 x queue + 2 x free KV + 3 x prefix. An idle worker without the prefix scores 4."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preble.core.policies.baselines.llm_d_weighted import LlmDWeighted
from preble.core.scheduler import Scheduler
from tests.core.policies.conftest import ask, asked, send

NewScheduler = Callable[..., Scheduler]

PROMPT = list(range(128))


def test_a_whole_prefix_beats_the_longest_queue_and_half_of_it_does_not(new_scheduler: NewScheduler):
    """One waiting request makes a the longest queue of all: 0 + 2 + 3 = 5, or 0 + 2 + 1.5 = 3.5."""
    scheduler = new_scheduler("ab", policy="llm-d-weighted")
    send(scheduler, "a", PROMPT)
    assert asked(scheduler, PROMPT) == {"a"}
    other = list(range(64)) + [5] * 64
    assert asked(scheduler, other, 1) == {"b"}


def test_queues_are_scored_between_the_shortest_and_the_longest(new_scheduler: NewScheduler):
    """Waiting 4, 1, 0: c scores 2 + 2, b 1.5 + 2 + 1.5 for half the prompt, a 0 + 2 + 3."""
    seen = set()
    for seed in range(20):
        scheduler = new_scheduler("abc", policy="llm-d-weighted", kv_tokens=10_000)
        scheduler.fleet.random.seed(seed)
        send(scheduler, "a", PROMPT)
        for _ in range(3):
            send(scheduler, "a", [1])
        send(scheduler, "b", PROMPT[:64])
        seen.add(ask(scheduler, PROMPT)[0])
    assert seen == {"a", "b"}, "5 and 5: a tie, drawn"


def test_those_that_started_do_not_wait(new_scheduler: NewScheduler):
    scheduler = new_scheduler("ab", policy="llm-d-weighted")
    send(scheduler, "b", [1])
    for _ in range(3):
        send(scheduler, "a", [1], state="running")
    assert asked(scheduler, PROMPT, 1) == {"a"}


@pytest.mark.parametrize(("tokens", "worker"), [(740, "a"), (760, "b")])
def test_kv_in_use_counts_against_a_worker(new_scheduler: NewScheduler, tokens: int, worker: str):
    """Half the prompt is worth 1.5, as much as 750 of 1000 tokens. What requests share is in use once."""
    scheduler = new_scheduler("ab", policy="llm-d-weighted", kv_tokens=1000)
    send(scheduler, "a", PROMPT[:64], state="done")
    for _ in range(2):
        send(scheduler, "a", [5] * tokens, state="running")
    assert ask(scheduler, PROMPT)[0] == worker


def test_only_what_decodes_is_in_use(new_scheduler: NewScheduler):
    policy = LlmDWeighted()
    scheduler = new_scheduler("ab", policy=policy)
    id = send(scheduler, "a", PROMPT)
    assert policy.running.tokens(0) == 0
    scheduler.first_token(id, now=0.0)
    assert policy.running.tokens(0) == 128
    scheduler.finish(id, now=0.0)
    assert policy.running.tokens(0) == 0


def test_what_was_sent_is_believed_until_it_is_too_much(new_scheduler: NewScheduler):
    """An engine of 2 blocks has an index of 2 blocks of 64 tokens."""
    policy = LlmDWeighted()
    scheduler = new_scheduler("a", policy=policy, kv_tokens=32, block_size=16, reports_evictions=True)
    for token in range(4):
        ask(scheduler, [token] * 64)
    assert policy.index.held_tokens(0) == 128
    assert policy.index.match(b"\x03\0\0\0" * 64).tokens == 64
    scheduler.remove_worker("a", now=0.0)
    assert policy.index.tokens == 0
