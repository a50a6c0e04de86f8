"""The dispatcher by itself: it is told what happens and when, and its instructions are looked at. No event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from preble.backends import Delta, Load
from preble.core.copies import COPY_PRIORITY, Copy
from preble.core.policy import Decision
from preble.core.scheduler import Scheduler
from preble.dispatch.dispatcher import MAX_ATTEMPTS, REBALANCE_INTERVAL, Dispatcher
from preble.dispatch.instructions import AskAgain, Send, Wake
from preble.dispatch.request import InFlightRequest
from preble.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    NoWorkersError,
    OverloadedError,
    WorkerLostError,
)
from preble.tokens import pack, unpack
from preble.transport.schema import Abort, Failed, Step, Submit
from preble.types import RequestOptions, SamplingParams
from tests.cluster.cases import prompt
from tests.policies import First

PROMPT = pack(prompt(1))
NOTHING = Load(0, 0, 0)


class Desk:
    """A dispatcher of two workers, and what it said last."""

    def __init__(self) -> None:
        self.policy = First()
        self.scheduler = Scheduler(self.policy)
        self.dispatcher = Dispatcher(self.scheduler, max_in_flight=10)
        self.now = 0.0
        for worker in ("a", "b"):
            self.scheduler.add_worker(worker, kv_tokens=10_000, now=0.0)
        self.said = self.dispatcher.start(self.now)

    def submit(self, id: str = "r1", tokens: bytes = PROMPT, **fields: Any) -> InFlightRequest:
        of_request = {name: fields.pop(name) for name in ("deadline", "streaming") & fields.keys()}
        request = InFlightRequest(id, tokens, SamplingParams(**fields), RequestOptions(), now=self.now, **of_request)
        self.said = self.dispatcher.submit(request, self.now)
        return request

    @property
    def sent(self) -> list[tuple[str, Submit]]:
        """The requests among the last instructions, with their workers."""
        return [(each.worker, each.message) for each in self.said if isinstance(each, Send) and is_submit(each)]

    @property
    def woken(self) -> list[str]:
        return [each.sample.id for each in self.said if isinstance(each, Wake)]

    def say(self, request: InFlightRequest, *deltas: Delta) -> None:
        """Let the worker of a request say something of it."""
        (sample,) = request.samples
        news = tuple((sample.worker_request_id, delta) for delta in deltas)
        self.said = self.dispatcher.on_step(sample.worker, Step((), news, (), Load(1, 0, 0)), self.now)

    def lose(self, worker: str) -> None:
        self.said = self.dispatcher.on_lost(worker, WorkerLostError("gone", worker=worker), self.now)

    def wait(self, seconds: float = REBALANCE_INTERVAL) -> None:
        self.now += seconds
        self.said = self.dispatcher.on_time(self.now)


def is_submit(instruction: Send) -> bool:
    return isinstance(instruction.message, Submit)


def asked_for(desk: Desk) -> list[float]:
    return [each.at for each in desk.said if isinstance(each, AskAgain)]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """The books are right afterwards, and empty after the end."""
    desk = Desk()
    yield desk
    desk.dispatcher.check()
    desk.dispatcher.close(WorkerLostError("the end"), desk.now)
    desk.dispatcher.check()
    assert desk.dispatcher.in_flight == 0


class TestSubmit:
    def test_each_sample_is_sent_to_the_worker_chosen_for_it(self, desk: Desk):
        desk.submit(n=2, seed=7, max_tokens=3)
        assert [worker for worker, _ in desk.sent] == ["a", "a"]
        requests = [message.request for _, message in desk.sent]
        assert [request.tokens for request in requests] == [PROMPT, PROMPT]
        assert [(request.sampling.n, request.sampling.seed) for request in requests] == [(1, 7), (1, 8)]
        assert len({request.id for request in requests}) == 2

    def test_what_is_refused_is_in_no_book_and_nothing_is_to_be_done(self, desk: Desk):
        desk.submit(n=8)
        with pytest.raises(OverloadedError, match="8 samples in flight, at most 10"):
            desk.submit("r2", n=3)
        with pytest.raises(DeadlineExceededError):
            desk.submit("r2", deadline=desk.now)
        assert (desk.dispatcher.in_flight, desk.dispatcher.counters.submitted) == (8, 8)

    def test_samples_placed_before_one_was_refused_are_undone(self, desk: Desk):
        real, calls = desk.policy.place, []

        def place(*arguments: Any) -> Decision:
            calls.append(arguments)
            if len(calls) == 2:
                raise NoWorkersError("none")
            return real(*arguments)

        desk.policy.place = place  # type: ignore[method-assign]
        with pytest.raises(NoWorkersError):
            desk.submit(n=3)
        assert desk.dispatcher.in_flight == desk.scheduler.requests_on("a") == 0
        counters = desk.dispatcher.counters
        assert (counters.submitted, counters.cancelled, counters.refused) == (0, 0, 3)
        desk.wait()
        assert asked_for(desk), "nothing was sent, so nobody is to abort anything"
        assert len(desk.said) == 1

    def test_an_id_in_flight_is_refused_and_the_request_that_has_it_goes_on(self, desk: Desk):
        first = desk.submit(n=2)
        with pytest.raises(InvalidRequestError, match="'r1' is in flight"):
            desk.submit()
        assert (desk.dispatcher.in_flight, first.samples[0].ended) == (2, False)


class TestSteps:
    def test_a_stream_is_woken_for_every_token_and_others_at_the_end(self, desk: Desk):
        stream, whole = desk.submit(streaming=True), desk.submit("r2")
        for request in (stream, whole):
            desk.say(request, Delta(pack([5]), cached_tokens=0))
            assert desk.woken == (["r1.0"] if request is stream else [])
            desk.say(request, Delta(pack([6]), finish_reason="stop"))
            assert desk.woken == [f"{request.id}.0"]
            assert unpack(bytes(request.samples[0].output)) == (5, 6)

    def test_a_delta_of_nothing_says_that_the_engine_admitted_a_sample(self, desk: Desk):
        request = desk.submit(max_tokens=1)
        assert desk.scheduler.fleet.waiting[0] == 1
        desk.say(request, Delta(b""))
        assert desk.scheduler.fleet.waiting[0] == 0
        desk.say(request, Delta(pack([5]), cached_tokens=3, finish_reason="length"))
        (sample,) = request.samples
        assert sample.cached_tokens == desk.scheduler.explain(sample.id).cached_tokens == 3

    def test_the_first_token_of_an_attempt_is_told_once(self, desk: Desk):
        request = desk.submit()
        desk.now = 2.0
        desk.say(request, Delta(pack([5]), cached_tokens=0))
        desk.now = 3.0
        desk.say(request, Delta(pack([6])))
        assert desk.scheduler.explain("r1.0").ttft == request.samples[0].first_token_at == 2.0

    def test_what_a_worker_says_of_an_earlier_attempt_is_not_believed(self, desk: Desk):
        request = desk.submit()
        number = request.samples[0].worker_request_id
        desk.lose("a")
        desk.dispatcher.on_step("b", Step((), ((number, Delta(pack([9]))),), (), NOTHING), desk.now)
        assert not request.samples[0].output

    def test_who_is_at_fault_for_a_failure(self, desk: Desk):
        first, second = desk.submit(), desk.submit("r2")
        one, other = (request.samples[0].worker_request_id for request in (first, second))
        failed = (Failed(one, "not here", "seed"), Failed(other, "out of memory"))
        desk.said = desk.dispatcher.on_step("a", Step((), (), failed, NOTHING), desk.now)
        refused = first.samples[0].error
        assert isinstance(refused, InvalidRequestError)
        assert (str(refused), refused.field, refused.worker, refused.request_id) == (
            "seed: not here",
            "seed",
            "a",
            "r1",
        )
        assert desk.woken == ["r1.0"]
        assert [worker for worker, _ in desk.sent] == ["b"]
        assert not second.samples[0].ended


class TestEnds:
    def test_whose_reader_is_gone_is_aborted_once(self, desk: Desk):
        request = desk.submit()
        number = request.samples[0].worker_request_id
        desk.said = desk.dispatcher.release(request, desk.now)
        assert desk.said[0] == Send("a", Abort((number,)))
        assert desk.dispatcher.release(request, desk.now) == []
        assert desk.dispatcher.counters.cancelled == 1

    def test_a_stop_string_ends_a_sample_on_its_worker(self, desk: Desk):
        request = desk.submit()
        (sample,) = request.samples
        desk.say(request, Delta(pack([5]), cached_tokens=0))
        desk.said = desk.dispatcher.stop(sample, "end", desk.now)
        assert desk.said[0] == Send("a", Abort((sample.worker_request_id,)))
        assert (sample.finish_reason, sample.stop_reason) == ("stop", "end")
        assert desk.dispatcher.stop(sample, "end", desk.now) == []

    def test_closing_ends_everything_with_its_error(self, desk: Desk):
        request, error = desk.submit(n=2), EngineError("closed")
        desk.said = desk.dispatcher.close(error, desk.now)
        assert desk.woken == ["r1.0", "r1.1"]
        assert [sample.error for sample in request.samples] == [error, error]


class TestDeadlines:
    def test_the_soonest_is_asked_for_and_ends_what_still_runs(self, desk: Desk):
        late = desk.submit(deadline=0.2)
        assert asked_for(desk) == [0.2]
        soon = desk.submit("r2", deadline=0.1)
        assert asked_for(desk) == [0.1]
        desk.submit("r3", deadline=0.15)
        assert asked_for(desk) == []
        number = soon.samples[0].worker_request_id
        desk.wait(0.1)
        assert desk.said == [Send("a", Abort((number,))), Wake(soon.samples[0]), AskAgain(0.15)]
        assert isinstance(soon.samples[0].error, DeadlineExceededError)
        assert not late.samples[0].ended

    def test_who_ended_before_is_not_kept_for_it(self, desk: Desk):
        request = desk.submit(deadline=0.1)
        desk.say(request, Delta(pack([5]), cached_tokens=0, finish_reason="stop"))
        desk.wait(0.1)
        assert desk.said == [AskAgain(REBALANCE_INTERVAL)]

    def test_engines_are_told_the_time_that_remains(self, desk: Desk):
        desk.now = 10.0
        desk.submit(deadline=12.5)
        assert desk.sent[0][1].request.remaining == 2.5
        desk.submit("r2")
        assert desk.sent[0][1].request.remaining is None

    def test_a_timer_that_goes_off_a_little_early_is_believed(self, desk: Desk):
        request = desk.submit(deadline=0.1)
        desk.said = desk.dispatcher.on_time(0.0999999)
        assert request.samples[0].ended


class TestLostWorkers:
    def test_a_sample_goes_on_elsewhere_from_its_last_token(self, desk: Desk):
        request = desk.submit(max_tokens=3, min_tokens=2)
        desk.say(request, Delta(pack([5]), cached_tokens=0))
        desk.lose("a")
        ((worker, message),) = desk.sent
        sampling = message.request.sampling
        assert (worker, message.request.tokens) == ("b", PROMPT + pack([5]))
        assert (sampling.max_tokens, sampling.min_tokens) == (2, 1)
        assert desk.scheduler.fleet.waiting[1] == 1, "it waits there anew"
        desk.say(request, Delta(b""))
        assert desk.scheduler.fleet.waiting[1] == 0

    def test_one_that_lacks_its_finish_reason_only_ends(self, desk: Desk):
        request = desk.submit(max_tokens=2)
        desk.say(request, Delta(pack([5, 6]), cached_tokens=0))
        desk.lose("a")
        (sample,) = request.samples
        assert (unpack(bytes(sample.output)), sample.finish_reason) == ((5, 6), "length")
        assert desk.dispatcher.counters.retried == 0
        assert not desk.sent

    def test_one_that_a_stopping_worker_gives_up_goes_on_elsewhere(self, desk: Desk):
        request = desk.submit(max_tokens=3)
        desk.say(request, Delta(pack([5]), cached_tokens=0))
        desk.scheduler.drain_worker("a", now=desk.now)
        desk.say(request, Delta(pack([6]), finish_reason="abort"))
        ((worker, message),) = desk.sent
        assert (worker, message.request.tokens) == ("b", PROMPT + pack([5, 6]))
        assert desk.scheduler.requests_on("a") == 0
        assert desk.dispatcher.counters.retried == 1

    def test_the_last_attempt_ends_with_the_tokens_so_far(self, desk: Desk):
        for worker in ("c", "d"):
            desk.scheduler.add_worker(worker, kv_tokens=10_000, now=0.0)
        request = desk.submit()
        for number, worker in enumerate("abc"):
            assert request.samples[0].attempts == number + 1 <= MAX_ATTEMPTS
            desk.say(request, Delta(pack([number]), cached_tokens=0))
            desk.lose(worker)
        error = request.samples[0].error
        assert isinstance(error, WorkerLostError)
        assert (error.worker, error.request_id, error.token_ids) == ("c", "r1", (0, 1, 2))
        assert (desk.dispatcher.counters.retried, desk.dispatcher.counters.failed) == (2, 1)

    def test_a_policy_that_raises_fails_the_samples_it_is_asked_for(self, desk: Desk):
        requests = [desk.submit(f"r{number}") for number in range(2)]

        def place(*_: Any) -> Decision:
            raise ValueError("no idea")

        desk.policy.place = place  # type: ignore[method-assign]
        desk.lose("a")
        for request in requests:
            error = request.samples[0].error
            assert isinstance(error, ConfigurationError)
            assert "no idea" in str(error)

    def test_without_another_worker_it_ends(self, desk: Desk):
        request = desk.submit()
        for worker in ("b", "a"):
            desk.lose(worker)
        assert isinstance(request.samples[0].error, WorkerLostError)


def pile(desk: Desk) -> InFlightRequest:
    """Four requests wait on the first worker; return the last, which would start sooner elsewhere."""
    return [desk.submit(f"r{number}", pack(prompt(number))) for number in range(4)][-1]


class TestMoves:
    def test_what_waits_moves_where_the_policy_chooses_anew(self, desk: Desk):
        last = pile(desk)
        number = last.samples[0].worker_request_id
        desk.policy.index = 1
        desk.wait()
        abort, again, *_ = desk.said
        assert abort == Send("a", Abort((number,)))
        assert isinstance(again, Send)
        assert (again.worker, desk.sent[0][1].request.tokens) == ("b", last.tokens)
        assert (desk.dispatcher.counters.moved, desk.scheduler.requests_on("b")) == (1, 1)
        desk.say(last, Delta(pack([5]), cached_tokens=0, finish_reason="length"))
        assert last.samples[0].worker == "b"

    def test_what_the_policy_leaves_keeps_its_place_and_is_not_asked_for_again(self, desk: Desk):
        last = pile(desk)
        for _ in range(2):
            desk.wait()
            assert not desk.sent
        assert desk.policy.asked == 5
        assert desk.dispatcher.counters.moved == 0
        desk.say(last, Delta(pack([5]), cached_tokens=0, finish_reason="length"))
        assert last.samples[0].attempts == 1
        assert desk.scheduler.requests_on("a") == 3

    def test_looks_are_asked_for_at_intervals_and_never_if_that_is_none(self, desk: Desk):
        for number in range(1, 4):
            assert desk.said == [AskAgain(number * REBALANCE_INTERVAL)]
            desk.wait()
        still = Dispatcher(Scheduler(First()), rebalance_interval=0.0)
        assert still.start(5.0) == still.on_time(5.0) == []


class TestCopies:
    def test_one_is_sent_behind_all_others_and_nobody_reads_it(self, desk: Desk):
        desk.submit()
        desk.policy.proposed = [Copy(PROMPT, "b")]
        desk.wait()
        ((worker, message),) = desk.sent
        assert (worker, message.request.priority, message.request.sampling.max_tokens) == ("b", COPY_PRIORITY, 1)
        number = message.request.id
        assert number in desk.dispatcher.copies
        assert desk.scheduler.fleet.waiting[1] == 1
        for delta in (Delta(b""), Delta(pack([5]), cached_tokens=0, finish_reason="length")):
            assert desk.dispatcher.on_step("b", Step((), ((number, delta),), (), NOTHING), desk.now) == []
            assert desk.scheduler.fleet.waiting[1] == 0
        assert desk.scheduler.requests_on("b") == 0
        assert desk.dispatcher.counters.submitted == 1

    def test_one_that_cannot_be_sent_is_in_no_book(self, desk: Desk):
        desk.submit()
        desk.policy.proposed = [Copy(PROMPT, "b")]
        desk.wait()
        number = desk.sent[0][1].request.id
        desk.dispatcher.on_failed("b", number, OverloadedError("full"), desk.now)
        assert desk.scheduler.requests_on("b") == 0
        assert number not in desk.dispatcher.copies

    def test_one_goes_with_its_worker(self, desk: Desk):
        desk.submit()
        desk.policy.proposed = [Copy(PROMPT, "b")]
        desk.wait()
        desk.lose("b")
        assert not desk.sent
        assert len(desk.dispatcher.copies) == 0
