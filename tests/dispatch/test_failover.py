"""What fails on one worker is tried on another, and a worker that fails gets nothing for a while. No event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from preble.backends import Delta, Load
from preble.core.rebalance import Move
from preble.core.scheduler import Scheduler
from preble.dispatch.breaker import FIRST_PAUSE, LEAST_FAILURES, WINDOW
from preble.dispatch.dispatcher import MAX_ATTEMPTS, RETRY_PAUSE, Dispatcher
from preble.dispatch.health import FULL_PAUSE
from preble.dispatch.instructions import Instruction, Send, Tell
from preble.dispatch.request import InFlightRequest, Sample
from preble.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    NamespaceNotServedError,
    NoWorkersError,
    OverloadedError,
    PrebleError,
    UnreachableError,
    WorkerLostError,
    WorkerTimeoutError,
)
from preble.tokens import pack, unpack
from preble.transport.schema import Abort, Step, Submit
from preble.types import RequestOptions, SamplingParams, WorkerEvent, WorkerStats
from tests.policies import First

PROMPT = pack(list(range(20)))
WAIT = 10.0


class Fleet:
    """A dispatcher whose policy prefers the first worker, and all that it said."""

    def __init__(self, workers: str, *, policy: Any = None, **options: Any) -> None:
        self.policy = policy or First()
        self.scheduler = Scheduler(self.policy)
        self.dispatcher = Dispatcher(self.scheduler, **{"worker_wait": WAIT, **options})
        self.now = 100.0
        self.said: list[Instruction] = []
        self.hear(self.dispatcher.start(self.now))
        for worker in workers:
            self.add(worker)

    def hear(self, instructions: list[Instruction]) -> None:
        self.said += instructions

    def add(self, worker: str, **options: Any) -> None:
        self.scheduler.add_worker(worker, kv_tokens=10_000, now=self.now, **options)
        self.hear(self.dispatcher.on_added(worker, self.now))

    def submit(self, id: str = "r", *, deadline: float | None = None, namespace: str = "", **fields: Any) -> Sample:
        request = InFlightRequest(
            id,
            PROMPT,
            SamplingParams(**{"max_tokens": 8, **fields}),
            RequestOptions(namespace=namespace),
            now=self.now,
            deadline=deadline,
        )
        self.hear(self.dispatcher.submit(request, self.now))
        return request.samples[0]

    def fail(self, sample: Sample, error: PrebleError | None = None) -> None:
        error = error or EngineError("out of order")
        self.hear(self.dispatcher.on_failed(sample.worker, sample.worker_request_id, error, self.now))

    def say(self, sample: Sample, *tokens: int, end: str | None = None) -> None:
        delta = Delta(pack(tokens), cached_tokens=0, finish_reason=end)  # type: ignore[arg-type]
        step = Step((), ((sample.worker_request_id, delta),), (), Load(1, 0, 0))
        self.hear(self.dispatcher.on_step(sample.worker, step, self.now))

    def serve(self, sample: Sample) -> None:
        self.say(sample, 1, end="stop")

    def lose(self, worker: str, **options: Any) -> None:
        self.hear(self.dispatcher.on_lost(worker, WorkerLostError("gone", worker=worker), self.now, **options))

    def wait(self, seconds: float) -> None:
        """Time passes in small steps, as timers do."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            self.hear(self.dispatcher.on_time(self.now))

    def trip(self, worker: str = "a", times: int = LEAST_FAILURES) -> None:
        """Let a worker fail so many requests, which another then serves."""
        for number in range(times):
            sample = self.submit(f"trip {worker} {number} {self.now}")
            assert sample.worker == worker
            self.fail(sample)
            self.serve(sample)

    @property
    def events(self) -> list[WorkerEvent]:
        return [each.event for each in self.said if isinstance(each, Tell)]

    def sent(self, sample: Sample) -> list[str]:
        """The workers that a sample's prompt was sent to, of requests with this prompt only."""
        return [each.worker for each in self.said if isinstance(each, Send) and isinstance(each.message, Submit)]

    def stats(self, worker: str) -> WorkerStats:
        (found,) = [each for each in self.dispatcher.stats(self.now).workers if each.worker == worker]
        return found


@pytest.fixture
def fleet_of() -> Iterator[Callable[..., Fleet]]:
    """The books are right afterwards, and empty after the end."""
    made: list[Fleet] = []

    def make(workers: str, **options: Any) -> Fleet:
        made.append(Fleet(workers, **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.dispatcher.check()
        fleet.dispatcher.close(EngineError("the end"), fleet.now)
        fleet.dispatcher.check()


class TestElsewhere:
    @pytest.mark.parametrize(
        "error",
        [
            EngineError("HTTP 500: out of order"),
            ConfigurationError("HTTP 404: no such model"),
            UnreachableError("the stream broke off"),
            OverloadedError("HTTP 429", retry_after=5.0),
        ],
    )
    def test_whatever_fails_that_is_not_the_request_s_fault_goes_to_another_worker(self, fleet_of, error):
        fleet = fleet_of("ab")
        sample = fleet.submit()
        fleet.fail(sample, error)
        assert fleet.sent(sample) == ["a", "b"]
        fleet.serve(sample)
        assert (sample.finish_reason, sample.error, sample.worker) == ("stop", None, "b")
        assert fleet.dispatcher.counters.retried == 1

    def test_the_request_s_own_fault_is_told_at_once(self, fleet_of):
        fleet = fleet_of("ab")
        sample = fleet.submit()
        fleet.fail(sample, InvalidRequestError("must be less", field="seed"))
        assert isinstance(sample.error, InvalidRequestError)
        assert fleet.sent(sample) == ["a"]
        assert not fleet.stats("a").errors

    def test_output_so_far_is_kept_and_the_rest_is_asked_for(self, fleet_of):
        fleet = fleet_of("ab")
        sample = fleet.submit(max_tokens=5)
        fleet.say(sample, 1, 2)
        fleet.fail(sample)
        last = [each.message for each in fleet.said if isinstance(each, Send)][-1]
        assert (unpack(last.request.tokens)[-2:], last.request.sampling.max_tokens) == ((1, 2), 3)
        fleet.say(sample, 3, 4, 5, end="length")
        assert unpack(bytes(sample.output)) == (1, 2, 3, 4, 5)

    def test_three_attempts_in_all_and_the_last_error_is_told(self, fleet_of):
        fleet = fleet_of("abcd")
        sample = fleet.submit()
        for number in range(MAX_ATTEMPTS):
            assert not sample.ended
            fleet.fail(sample, EngineError(f"failure {number}"))
        assert fleet.sent(sample) == ["a", "b", "c"]
        assert str(sample.error) == "failure 2"
        assert (sample.error.worker, sample.error.request_id) == ("c", "r")

    def test_an_error_of_the_only_worker_is_told_at_once(self, fleet_of):
        fleet = fleet_of("a")
        sample = fleet.submit()
        fleet.fail(sample, EngineError("out of order"))
        assert str(sample.error) == "out of order"

    def test_a_broken_connection_to_the_only_worker_is_tried_again_after_a_pause(self, fleet_of):
        fleet = fleet_of("a")
        sample = fleet.submit()
        fleet.fail(sample, UnreachableError("reset"))
        assert (fleet.sent(sample), fleet.dispatcher.stats(fleet.now).waiting) == (["a"], 1)
        fleet.wait(2 * RETRY_PAUSE)
        assert fleet.sent(sample) == ["a", "a"]
        fleet.serve(sample)
        assert sample.error is None

    def test_each_sample_of_a_request_is_tried_on_its_own(self, fleet_of):
        fleet = fleet_of("ab")
        first = fleet.submit(n=2)
        other = first.request.samples[1]
        fleet.fail(first)
        fleet.serve(other)
        fleet.serve(first)
        assert (first.worker, other.worker) == ("b", "a")

    def test_a_cancelled_request_is_not_tried_again(self, fleet_of):
        fleet = fleet_of("ab")
        sample = fleet.submit()
        before = sample.worker_request_id
        fleet.hear(fleet.dispatcher.release(sample.request, fleet.now))
        fleet.hear(fleet.dispatcher.on_failed("a", before, EngineError("late"), fleet.now))
        assert fleet.sent(sample) == ["a"]


class TestWaiting:
    def test_with_no_worker_a_request_waits_for_one(self, fleet_of):
        fleet = fleet_of("")
        sample = fleet.submit()
        assert (fleet.sent(sample), fleet.dispatcher.stats(fleet.now).waiting) == ([], 1)
        fleet.wait(WAIT / 2)
        fleet.add("a")
        assert fleet.sent(sample) == ["a"]
        assert fleet.dispatcher.stats(fleet.now).waiting == 0
        fleet.serve(sample)

    def test_and_not_for_ever(self, fleet_of):
        fleet = fleet_of("")
        sample = fleet.submit()
        fleet.wait(WAIT + 0.5)
        assert isinstance(sample.error, NoWorkersError)

    def test_without_patience_it_is_refused_and_counted_as_refused(self, fleet_of):
        fleet = fleet_of("", worker_wait=0.0)
        with pytest.raises(NoWorkersError):
            fleet.submit(n=2)
        counters = fleet.dispatcher.counters
        assert (counters.refused, counters.submitted, counters.cancelled) == (2, 0, 0)

    def test_orphans_wait_for_their_worker_and_go_on_where_they_were(self, fleet_of):
        fleet = fleet_of("a")
        sample = fleet.submit()
        fleet.say(sample, 1, 2)
        fleet.lose("a", returns=True)
        assert fleet.dispatcher.stats(fleet.now).waiting == 1
        fleet.wait(1.0)
        fleet.add("a")
        fleet.say(sample, 3, end="stop")
        assert (unpack(bytes(sample.output)), sample.error) == ((1, 2, 3), None)
        assert [(event.kind, event.worker) for event in fleet.events] == [("lost", "a"), ("back", "a")]
        assert (fleet.stats("a").restarts, fleet.stats("a").errors) == (1, {"lost": 1})

    def test_what_was_lost_is_told_after_the_wait(self, fleet_of):
        fleet = fleet_of("a")
        sample = fleet.submit()
        fleet.say(sample, 1, 2)
        fleet.lose("a")
        fleet.wait(WAIT + 0.5)
        assert isinstance(sample.error, WorkerLostError)
        assert sample.error.token_ids == (1, 2)

    def test_a_deadline_and_a_cancellation_end_the_wait(self, fleet_of):
        fleet = fleet_of("")
        late, gone = fleet.submit("late", deadline=fleet.now + 1.0), fleet.submit("gone")
        fleet.hear(fleet.dispatcher.release(gone.request, fleet.now))
        fleet.wait(1.5)
        assert isinstance(late.error, DeadlineExceededError)
        assert gone.finish_reason == "abort"
        fleet.add("a")
        assert fleet.sent(late) == []
        assert not [each for each in fleet.said if isinstance(each, Send) and isinstance(each.message, Abort)]

    def test_those_that_wait_come_in_turn_and_nobody_is_forgotten_for_a_choosy_one(self, fleet_of):
        fleet = fleet_of("")
        fleet.add("x", namespaces=["x"])
        fleet.lose("x", returns=True)
        samples = [fleet.submit("choosy", namespace="x"), *[fleet.submit(f"r{number}") for number in range(5)]]
        fleet.add("a", namespaces=[""])
        assert [sample.worker for sample in samples] == ["", "a", "a", "a", "a", "a"]
        fleet.add("x", namespaces=["x"])
        assert samples[0].worker == "x"

    def test_a_namespace_that_no_worker_serves_is_refused_at_once(self, fleet_of):
        fleet = fleet_of("")
        fleet.add("x", namespaces=["x"])
        with pytest.raises(NamespaceNotServedError):
            fleet.submit(namespace="y")

    def test_workers_that_cannot_be_reached_at_the_start_may_come_later(self, fleet_of):
        fleet = fleet_of("a")
        fleet.dispatcher.expect("b", "connection refused", fleet.now)
        assert (fleet.stats("b").status, fleet.stats("b").reason) == ("lost", "connection refused")
        sample = fleet.submit()
        fleet.fail(sample)
        assert not sample.ended, "b may come yet"
        fleet.add("b")
        assert sample.worker == "b"

    def test_a_long_prompt_waits_for_the_lost_worker_that_it_fits(self, fleet_of):
        fleet = fleet_of("")
        fleet.add("short", context_limit=25)
        fleet.add("long")
        sample = fleet.submit(max_tokens=100)
        assert sample.worker == "long"
        fleet.say(sample, *range(10))
        fleet.lose("long", returns=True)
        assert not sample.ended
        fleet.add("long")
        assert sample.worker == "long"
        fleet.serve(sample)

    def test_a_request_that_waits_in_a_queue_is_not_moved_to_nowhere(self, fleet_of):
        fleet = fleet_of("ab")
        sample = fleet.submit()
        fleet.fail(sample)
        fleet.hear(fleet.dispatcher.on_failed("b", -1, EngineError("unknown"), fleet.now))
        fleet.scheduler.rebalance = lambda now: [Move(sample.id, "b", "a")]  # type: ignore[method-assign]
        fleet.scheduler.adjust_worker("b", paused=True, now=fleet.now)
        fleet.wait(1.0)
        assert (sample.ended, sample.worker) == (False, "b")
        del fleet.scheduler.rebalance


class TestFull:
    def test_a_full_worker_is_left_alone_for_as_long_as_it_says(self, fleet_of):
        fleet = fleet_of("ab")
        fleet.fail(fleet.submit("first"), OverloadedError("HTTP 429: slow down", retry_after=3.0))
        assert (fleet.stats("a").status, fleet.stats("a").reason) == ("full", "HTTP 429: slow down")
        assert fleet.submit("second").worker == "b"
        fleet.wait(3.1)
        assert fleet.submit("third").worker == "a"
        assert fleet.stats("a").status == "serving"
        assert fleet.stats("a").errors == {"full": 1}

    def test_without_a_time_it_is_left_alone_for_a_moment(self, fleet_of):
        fleet = fleet_of("ab")
        fleet.fail(fleet.submit("first"), OverloadedError("HTTP 503"))
        assert fleet.submit("second").worker == "b"
        fleet.wait(FULL_PAUSE + 0.1)
        assert fleet.submit("third").worker == "a"

    def test_a_worker_that_is_full_in_the_middle_of_a_stream_was_tried(self, fleet_of):
        fleet = fleet_of("abcd")
        sample = fleet.submit()
        for token in range(MAX_ATTEMPTS):
            fleet.say(sample, token)
            fleet.fail(sample, OverloadedError("the cache is full"))
        assert isinstance(sample.error, OverloadedError)
        assert fleet.sent(sample) == ["a", "b", "c"]

    def test_with_all_full_requests_wait_and_are_served_in_the_end(self, fleet_of):
        fleet = fleet_of("ab")
        sample = fleet.submit()
        for _ in range(4):
            fleet.fail(sample, OverloadedError("HTTP 429", retry_after=1.0))
            fleet.fail(sample, OverloadedError("HTTP 429", retry_after=1.0))
            assert fleet.dispatcher.stats(fleet.now).waiting == 1
            fleet.wait(1.1)
        fleet.serve(sample)
        assert (sample.error, sample.attempts) == (None, 1)

    def test_whoever_comes_while_all_are_full_hears_when_to_try_again(self, fleet_of):
        fleet = fleet_of("a", worker_wait=0.0)
        fleet.fail(fleet.submit("first"), OverloadedError("HTTP 429: slow down", retry_after=3.0))
        fleet.wait(1.0)
        with pytest.raises(OverloadedError, match="slow down") as caught:
            fleet.submit("second")
        assert caught.value.retry_after == pytest.approx(2.0)

    def test_but_not_for_ever(self, fleet_of):
        fleet = fleet_of("a")
        sample = fleet.submit()
        while not sample.ended:
            assert fleet.now < 100 + 2 * WAIT
            fleet.fail(sample, OverloadedError("HTTP 429", retry_after=0.0))
            fleet.wait(0.5)
        assert isinstance(sample.error, OverloadedError)

    def test_one_that_waits_for_hours_is_tried_again_and_again(self, fleet_of):
        fleet = fleet_of("a", worker_wait=36_000.0)
        sample = fleet.submit()
        for _ in range(1500):
            fleet.fail(sample, OverloadedError("full", retry_after=0.2))
            fleet.wait(0.25)
        fleet.serve(sample)
        assert sample.error is None

    def test_a_deadline_that_passes_before_it_was_sent_names_no_worker(self, fleet_of):
        fleet = fleet_of("a")
        fleet.fail(fleet.submit("first"), OverloadedError("full", retry_after=60.0))
        sample = fleet.submit("second", deadline=fleet.now + 1.0)
        fleet.wait(1.1)
        assert isinstance(sample.error, DeadlineExceededError)
        assert sample.error.worker is None


class TestBreaker:
    def test_a_worker_that_fails_fast_gets_no_more_requests(self, fleet_of):
        fleet = fleet_of("ab")
        fleet.trip("a")
        assert [fleet.submit(f"r{number}").worker for number in range(5)] == ["b"] * 5
        assert fleet.events == [WorkerEvent("opened", "a", "out of order")]
        assert (fleet.stats("a").status, fleet.stats("a").reason) == ("open", "out of order")
        assert fleet.stats("a").errors == {"engine": LEAST_FAILURES}

    def test_one_request_tries_after_a_pause_and_its_first_token_closes_it(self, fleet_of):
        fleet = fleet_of("ab")
        fleet.trip("a")
        fleet.wait(FIRST_PAUSE + 0.1)
        assert fleet.stats("a").status == "half_open"
        probe, other = fleet.submit("probe"), fleet.submit("other")
        assert (probe.worker, other.worker) == ("a", "b")
        fleet.say(probe, 1)
        assert fleet.submit("next").worker == "a"
        assert [event.kind for event in fleet.events] == ["opened", "closed"]
        assert fleet.stats("a").status == "serving"

    def test_a_probe_that_fails_doubles_the_pause(self, fleet_of):
        fleet = fleet_of("ab")
        fleet.trip("a")
        fleet.wait(FIRST_PAUSE + 0.1)
        fleet.fail(fleet.submit("probe"))
        fleet.wait(FIRST_PAUSE + 0.1)
        assert fleet.submit("early").worker == "b"
        fleet.wait(FIRST_PAUSE)
        assert fleet.submit("later").worker == "a"
        assert [event.kind for event in fleet.events] == ["opened"], "it is told once"

    def test_a_probe_that_is_cancelled_proves_nothing_and_the_next_one_tries(self, fleet_of):
        fleet = fleet_of("ab")
        fleet.trip("a")
        fleet.wait(FIRST_PAUSE + 0.1)
        probe = fleet.submit("probe")
        fleet.hear(fleet.dispatcher.release(probe.request, fleet.now))
        assert fleet.stats("a").status == "half_open"
        assert fleet.submit("next").worker == "a"

    @pytest.mark.parametrize("how", ["full", "aborted", "silent"])
    def test_a_probe_that_comes_to_nothing_does_not_keep_the_worker_out_for_good(self, fleet_of, how: str):
        fleet = fleet_of("ab", idle_timeout=2.0)
        fleet.trip("a")
        fleet.wait(FIRST_PAUSE + 0.1)
        probe = fleet.submit("probe")
        assert probe.worker == "a"
        if how == "full":
            fleet.fail(probe, OverloadedError("HTTP 429", retry_after=1.0))
            assert probe.worker == "b"
        elif how == "aborted":
            fleet.say(probe, end="abort")
        else:
            fleet.say(probe)  # it has begun
            fleet.wait(2.6)
            assert fleet.stats("a").status == "open", "the pause doubles"
            assert probe.worker == "b"
        fleet.serve(probe)
        fleet.wait(3.0)
        assert fleet.submit("next").worker == "a"

    def test_who_breaks_every_stream_proves_itself_by_an_end(self, fleet_of):
        fleet = fleet_of("ab")
        for number in range(LEAST_FAILURES):
            sample = fleet.submit(f"r{number}")
            fleet.say(sample, 1)
            fleet.fail(sample, UnreachableError("the stream broke off"))
            fleet.serve(sample)
        fleet.wait(FIRST_PAUSE + 0.1)
        probe = fleet.submit("probe")
        fleet.say(probe, 1)
        assert fleet.submit("other").worker == "b", "a first token proves nothing here"
        fleet.say(probe, 2, end="stop")
        assert fleet.submit("next").worker == "a"

    def test_never_more_than_half_of_the_workers(self, fleet_of):
        fleet = fleet_of("abc")
        fleet.trip("a")
        fleet.trip("b", times=2 * LEAST_FAILURES)
        assert (fleet.stats("a").status, fleet.stats("b").status) == ("open", "serving")
        alone = fleet_of("a")
        for number in range(2 * LEAST_FAILURES):
            alone.fail(alone.submit(f"r{number}"))
        assert alone.submit().worker == "a"

    def test_drained_workers_are_no_part_of_the_fleet_of_which_half_may_be_open(self, fleet_of):
        fleet = fleet_of("abcd")
        for worker in "cd":
            fleet.scheduler.drain_worker(worker, now=fleet.now)
        fleet.trip("a")
        for number in range(2 * LEAST_FAILURES):
            fleet.fail(fleet.submit(f"r{number}"))
        assert (fleet.stats("a").status, fleet.stats("b").status) == ("open", "serving")

    @pytest.mark.parametrize("kind", [EngineError, ConfigurationError])
    def test_what_fails_everywhere_is_no_fault_of_the_workers(self, fleet_of, kind):
        fleet = fleet_of("abcdef")
        for number in range(20):
            bad = fleet.submit(f"bad {number}")
            while not bad.ended:
                fleet.fail(bad, kind("cannot do this"))
        assert {fleet.stats(worker).status for worker in "abcdef"} == {"serving"}
        assert not [event for event in fleet.events if event.kind == "opened"]

    def test_a_burst_of_bad_requests_opens_a_breaker_only_until_the_rest_is_known(self, fleet_of):
        fleet = fleet_of("abcd")
        burst = [fleet.submit(f"bad {number}") for number in range(LEAST_FAILURES)]
        for _ in range(MAX_ATTEMPTS):
            for bad in burst:
                fleet.fail(bad)
        assert all(bad.ended for bad in burst)
        assert fleet.stats("a").status == "serving"

    def test_good_outcomes_outweigh_a_few_failures(self, fleet_of):
        fleet = fleet_of("ab")
        for number in range(8):
            fleet.serve(fleet.submit(f"good {number}"))
        fleet.trip("a", times=LEAST_FAILURES + 2)
        assert fleet.stats("a").status == "serving"
        assert fleet.scheduler.fleet.slots[0].penalty >= 0.0

    def test_old_failures_do_not_count(self, fleet_of):
        fleet = fleet_of("ab")
        fleet.trip("a", times=LEAST_FAILURES - 1)
        fleet.wait(WINDOW + 1)
        fleet.trip("a", times=LEAST_FAILURES - 1)
        assert fleet.stats("a").status == "serving"

    def test_failures_cost_a_penalty_which_passes(self, fleet_of):
        fleet = fleet_of("ab")
        sample = fleet.submit()
        fleet.wait(2.0)
        fleet.fail(sample)
        assert fleet.scheduler.fleet.slots[0].penalty == pytest.approx(2.0)
        fleet.serve(sample)
        fleet.serve(fleet.submit("good"))
        assert fleet.scheduler.fleet.slots[0].penalty == pytest.approx(1.0)
        fleet.wait(WINDOW)
        assert fleet.scheduler.fleet.slots[0].penalty == 0.0

    def test_a_worker_that_is_lost_and_back_begins_anew(self, fleet_of):
        fleet = fleet_of("ab")
        fleet.trip("a")
        fleet.lose("a", returns=True)
        assert (fleet.stats("a").status, fleet.stats("a").reason) == ("lost", "gone")
        fleet.add("a")
        assert fleet.stats("a").status == "serving"

    def test_workers_may_be_replaced_one_after_the_other_under_a_long_request(self, fleet_of):
        fleet = fleet_of("ab")
        sample = fleet.submit(max_tokens=20)
        for number in range(MAX_ATTEMPTS + 2):
            fleet.say(sample, number)
            fleet.add(f"new{number}")
            fleet.lose(sample.worker, removed=True)
        fleet.serve(sample)
        assert (sample.error, len(sample.output) // 4) == (None, MAX_ATTEMPTS + 3)

    def test_a_removed_worker_is_forgotten_and_a_drained_one_stays(self, fleet_of):
        fleet = fleet_of("abc")
        fleet.lose("a", removed=True)
        fleet.scheduler.drain_worker("b", now=fleet.now)
        statuses = {each.worker: each.status for each in fleet.dispatcher.stats(fleet.now).workers}
        assert statuses == {"b": "drained", "c": "serving"}
        assert fleet.events == []


class TestSilence:
    def test_a_silent_worker_s_request_is_tried_elsewhere_and_ends_if_all_are_silent(self, fleet_of):
        fleet = fleet_of("abc", idle_timeout=4.0)
        sample = fleet.submit()
        fleet.wait(5.0)
        assert fleet.sent(sample) == ["a", "b"]
        assert Send("a", Abort((1,))) in fleet.said
        assert fleet.stats("a").errors == {"timeout": 1}
        fleet.wait(5.0)
        assert fleet.sent(sample) == ["a", "b", "c"]
        assert not sample.ended
        fleet.wait(5.0)
        assert isinstance(sample.error, WorkerTimeoutError)

    def test_with_two_silent_workers_of_two_it_ends(self, fleet_of):
        fleet = fleet_of("ab", idle_timeout=4.0)
        sample = fleet.submit()
        fleet.wait(10.0)
        assert isinstance(sample.error, WorkerTimeoutError)
        assert fleet.sent(sample) == ["a", "b"]

    def test_a_worker_that_speaks_of_others_is_not_at_fault_and_its_queue_may_be_long(self, fleet_of):
        fleet = fleet_of("ab", idle_timeout=4.0)
        waiting, running = fleet.submit("waiting"), fleet.submit("running", max_tokens=50)
        for token in range(6):
            fleet.wait(1.0)
            fleet.say(running, token)
        assert waiting.worker == "b"
        assert (fleet.stats("a").errors, fleet.stats("a").status) == ({}, "serving")
        other = fleet.submit("other", max_tokens=50)
        fleet.hear(fleet.dispatcher.release(other.request, fleet.now))
        fleet.policy.index = 1
        busy = fleet.submit("busy", max_tokens=50)
        assert busy.worker == "b"
        for token in range(20):
            fleet.wait(1.0)
            fleet.say(busy, token)
        assert (waiting.ended, waiting.worker) == (False, "b"), "it waits on"
        fleet.serve(waiting)

    def test_a_stream_that_stalls_is_a_fault_though_its_worker_speaks_of_others(self, fleet_of):
        fleet = fleet_of("ab", idle_timeout=4.0)
        stalled, running = fleet.submit("stalled"), fleet.submit("running", max_tokens=50)
        fleet.say(stalled, 1)
        for token in range(6):
            fleet.wait(1.0)
            fleet.say(running, token)
        assert (stalled.worker, fleet.stats("a").errors) == ("b", {"timeout": 1})
        fleet.say(stalled, 2)
        fleet.wait(30.0)
        assert isinstance(stalled.error, WorkerTimeoutError)

    def test_tokens_are_life(self, fleet_of):
        fleet = fleet_of("ab", idle_timeout=4.0)
        sample = fleet.submit(max_tokens=20)
        for token in range(10):
            fleet.wait(3.0)
            fleet.say(sample, token)
        assert fleet.sent(sample) == ["a"]

    def test_it_may_take_ten_times_what_was_predicted(self, fleet_of):
        fleet = fleet_of("ab", idle_timeout=1.0)
        fleet.scheduler.fleet.slots[0].prices = fleet.scheduler.fleet.slots[0].prices.__class__(
            **{**_fields(fleet.scheduler.fleet.slots[0].prices), "least": 2.0}
        )
        sample = fleet.submit()
        fleet.wait(15.0)
        assert fleet.sent(sample) == ["a"]
        fleet.wait(6.0)
        assert fleet.sent(sample) == ["a", "b"]

    def test_with_nobody_else_it_stays_where_it_is(self, fleet_of):
        fleet = fleet_of("a", idle_timeout=1.0)
        sample = fleet.submit()
        fleet.wait(10.0)
        assert (sample.ended, fleet.stats("a").errors) == (False, {})

    def test_a_loop_that_was_blocked_does_not_make_workers_silent(self, fleet_of):
        fleet = fleet_of("ab", idle_timeout=2.0)
        sample = fleet.submit()
        fleet.now += 30.0
        fleet.hear(fleet.dispatcher.on_time(fleet.now))
        fleet.say(sample, 1)
        fleet.wait(1.0)
        assert fleet.sent(sample) == ["a"]

    def test_hung_workers_trip_their_breaker(self, fleet_of):
        fleet = fleet_of("ab", idle_timeout=2.0)
        hung = [fleet.submit(f"r{number}") for number in range(LEAST_FAILURES)]
        fleet.wait(3.0)
        assert [sample.worker for sample in hung] == ["b"] * LEAST_FAILURES
        assert fleet.stats("a").status in ("open", "half_open")
        assert isinstance(hung[0].last_error, WorkerTimeoutError)


def test_spreads_and_cached_tokens_are_told(fleet_of):
    fleet = fleet_of("a")
    assert fleet.stats("a").ttft is None
    for seconds in (1.0, 2.0, 6.0):
        sample = fleet.submit(f"r{seconds}")
        fleet.wait(seconds)
        fleet.say(sample, 1)
        fleet.wait(1.0)
        fleet.say(sample, 2, end="stop")
    told = fleet.stats("a")
    assert (told.ttft.mean, told.ttft.p50, told.ttft.p99) == pytest.approx((3.0, 2.0, 6.0))
    assert told.latency.mean == pytest.approx(4.0)
    assert (told.finished, told.cached_tokens, told.uncached_tokens) == (3, 0, 60)
    assert told.uptime == pytest.approx(12.0)
    fleet.wait(400.0)
    assert fleet.stats("a").latency is None


def test_stats_are_plain_data(fleet_of):
    fleet = fleet_of("ab")
    fleet.trip("a")
    told = fleet.dispatcher.stats(fleet.now).to_dict()
    assert told["workers"][0]["errors"] == {"engine": LEAST_FAILURES}
    assert told["workers"][0]["status"] == "open"


def _fields(prices: Any) -> dict[str, float]:
    return {name: getattr(prices, name) for name in prices.__struct_fields__}


class TestAnOutputWithAForm:
    @pytest.mark.parametrize(("seen", "begun"), [((), 0), ((1, 2), 2)])
    def test_it_begins_again_unless_somebody_has_seen_of_it(self, fleet_of, seen, begun):
        fleet = fleet_of("ab")
        sample = fleet.submit(choice=("yes", "no"))
        fleet.say(sample, 1, 2)
        if seen:
            assert sample.take()[0] == seen
        fleet.lose("a")
        last = [each.message for each in fleet.said if isinstance(each, Send)][-1]
        assert (last.request.tokens, last.request.begun) == (PROMPT + pack(seen), begun)
        fleet.say(sample, 3, end="stop")
        assert unpack(bytes(sample.output)) == (*seen, 3)
