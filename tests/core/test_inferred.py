"""What first tokens and ends tell of steps: times and counts by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from preble.core.cost import StepTiming
from preble.core.log import decode
from preble.core.scheduler import Scheduler
from preble.replay import Replay


@pytest.fixture
def told(new_scheduler: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch) -> tuple[Scheduler, list[Any]]:
    """A scheduler with one worker that does not tell of its steps, and what is inferred of them."""
    scheduler, found = new_scheduler("a", reports_steps=False), []
    saw = scheduler.fleet.saw_steps
    monkeypatch.setattr(scheduler.fleet, "saw_steps", lambda slot, timings: (found.extend(timings), saw(slot, timings)))
    return scheduler, found


def serve_twenty(scheduler: Scheduler) -> None:
    """One at a time: half a second of prefill each, and ten tokens."""
    for id in range(20):
        scheduler.submit(id, [id] * 100, now=float(id))
        scheduler.first_token(id, now=id + 0.5)
        scheduler.finish(id, output=[1] * 10, now=id + 0.9)


def test_a_request_that_is_alone_tells_of_its_prefill(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=10.0)
    scheduler.first_token(1, now=10.5)
    scheduler.finish(1, output=[1], now=10.5)
    scheduler.submit(2, [1] * 100 + [2] * 60, now=20.0)
    scheduler.started(2, cached_tokens=80, now=20.0)
    scheduler.first_token(2, now=20.25)
    scheduler.finish(2, output=[1, 2, 3], now=21.0)
    assert found == [StepTiming(100, 100, 100, 100 * 100, 0, 0.5), StepTiming(80, 160, 160, 80 * 160, 0, 0.25)]


def test_a_request_that_decodes_counts_the_steps_of_all(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.submit(2, [2] * 200, now=0.0)
    scheduler.submit(3, [3] * 300, now=0.0)
    scheduler.first_token(1, now=1.0)
    scheduler.first_token(2, now=2.0)  # it decodes for three of the four seconds
    scheduler.first_token(3, now=3.0)  # and this one for two
    scheduler.finish(1, output=[1] * 11, now=5.0)
    decoding, prompts = round((4 + 3 + 2) / 4), round((4 * 100 + 3 * 200 + 2 * 300) / 4)
    contexts = prompts + decoding * 10 // 2  # of the ten tokens of each, half are there on the average
    new, prefill, product = (200 + 300) // 10, (200 + 300) // 10, (200 * 200 + 300 * 300) // 10
    assert found == [StepTiming(decoding + new, contexts + prefill, prefill, product, decoding, 0.4)]
    assert found[0].plausible


def test_those_that_come_together_tell_of_their_prefills_when_the_last_has_ended(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.submit(2, [2] * 200, now=0.5)
    scheduler.first_token(1, now=1.0)
    scheduler.first_token(2, now=1.5)
    scheduler.finish(2, output=[1] * 3, now=2.0)
    assert found == []
    scheduler.finish(1, output=[1] * 3, now=2.5)
    assert found == [StepTiming(300, 300, 300, 100 * 100 + 200 * 200, 0, 1.5)]


@pytest.mark.parametrize("left", [False, True])
def test_nothing_is_known_of_those_that_others_disturb(told: tuple[Scheduler, list[Any]], left: bool):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.submit(2, [2] * 100, now=0.5)
    scheduler.first_token(1, now=1.0)
    if left:
        scheduler.finish(1, output=[1] * 3, now=1.1)
    scheduler.submit(3, [3] * 100, now=1.2)
    for id in {2, 3} if left else {1, 2, 3}:
        if id > 1:
            scheduler.first_token(id, now=2.0)
        scheduler.finish(id, output=[1] * 3, now=3.0)
    assert found == []


def test_nothing_is_known_of_those_of_which_one_was_aborted(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.submit(2, [2] * 100, now=0.0)
    scheduler.finish(2, now=0.5)
    scheduler.first_token(1, now=1.0)
    scheduler.finish(1, output=[1] * 3, now=2.0)
    assert found == []


def test_one_that_comes_after_the_first_token_of_another_changes_nothing(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.first_token(1, now=0.5)
    scheduler.submit(2, [2] * 100, now=0.6)
    scheduler.finish(1, output=[1] * 3, now=1.0)
    assert [timing.seconds for timing in found] == [0.5]


def test_without_a_first_token_nothing_is_known(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.finish(1, output=[1] * 20, now=3.0)  # nobody said when the first of them came
    scheduler.submit(2, [2] * 100, now=4.0)
    scheduler.finish(2, now=5.0)
    assert found == []


def test_a_worker_that_came_back_begins_anew(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.first_token(1, now=1.0)
    assert scheduler.remove_worker("a", now=2.0) == [1]
    scheduler.add_worker("a", kv_tokens=1000, reports_steps=False, now=3.0)
    scheduler.submit(1, [1] * 100, now=3.0)
    scheduler.first_token(1, now=3.25)
    scheduler.finish(1, output=[1], now=3.25)
    assert [timing.seconds for timing in found] == [0.25]


def test_of_workers_that_tell_nothing_is_inferred(new_scheduler: Callable[..., Scheduler]):
    scheduler = new_scheduler("a")
    before = scheduler.prices("a")
    serve_twenty(scheduler)
    assert scheduler.prices("a") == before


def test_tokens_that_come_all_at_once_say_nothing(told: tuple[Scheduler, list[Any]]):
    """A server that answers with a document, or a pause of ours: the first token was not the first."""
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.first_token(1, now=3.0)
    scheduler.finish(1, output=[1] * 20, now=3.0001)
    assert found == []


def test_breaks_are_no_steps(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.first_token(1, now=1.0)
    scheduler.finish(1, output=[1] * 6, now=61.0)
    assert found == []


def test_prefills_done_in_the_same_step_are_not_of_the_steps_after_it(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.submit(2, [2] * 100, now=0.0)
    scheduler.first_token(1, now=1.0)
    scheduler.first_token(2, now=1.0005)
    scheduler.finish(1, output=[1] * 11, now=2.0)
    assert [(timing.new, timing.decodes) for timing in found] == [(2, 2)]


def test_what_was_cached_is_put_right_when_the_server_tells_at_the_end(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.first_token(1, now=1.0)
    scheduler.submit(2, [2] * 200, now=1.5)
    scheduler.first_token(2, now=2.0)
    scheduler.started(2, cached_tokens=150, now=2.5)
    scheduler.finish(2, output=[1], now=2.5)
    scheduler.finish(1, output=[1] * 11, now=3.0)
    span, burst = found
    assert (span.new - span.decodes, span.product) == (50 // 10, 50 * 200 // 10)
    assert (burst.new, burst.seconds) == (100, 1.0)


def test_after_an_abort_the_worker_may_still_be_at_it(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.submit(1, [1] * 100, now=0.0)
    scheduler.finish(1, now=0.5)
    for id, usable in ((2, 0), (3, 1)):
        scheduler.submit(id, [id] * 100, now=float(id))
        scheduler.first_token(id, now=id + 0.5)
        scheduler.finish(id, output=[1], now=id + 0.5)
        assert len(found) == usable


def test_what_was_inferred_is_in_the_decision_log():
    lines: list[bytes] = []
    scheduler = Scheduler(log=lines.append)
    scheduler.add_worker("a", kv_tokens=10_000, reports_steps=False, now=0.0)
    before = scheduler.prices("a")
    serve_twenty(scheduler)
    assert scheduler.prices("a") != before
    begin, *events = map(decode, lines)
    again = Replay(begin)
    for event in events:
        again.take(event)
    assert again.scheduler.prices("a") == scheduler.prices("a")
    assert again.comparison.differing == 0


def test_of_a_worker_that_tells_in_the_place_of_one_that_did_not_nothing_is_inferred(told: tuple[Scheduler, list[Any]]):
    scheduler, found = told
    scheduler.remove_worker("a", now=0.0)
    scheduler.add_worker("b", kv_tokens=1000, now=0.0)
    serve_twenty(scheduler)
    assert found == []
