"""What a caller gets of a request, whatever became of it."""

from __future__ import annotations

import msgspec
import pytest

from preble.backends import Delta
from preble.dispatch.request import InFlightRequest
from preble.tokens import pack
from preble.types import RequestOptions, SamplingParams, TokenLogprob


@pytest.mark.parametrize(("first_token_at", "ttft"), [(None, 3.0), (2.0, 1.0)])
def test_without_a_token_the_first_one_counts_as_come_at_the_end(first_token_at: float | None, ttft: float) -> None:
    (sample,) = InFlightRequest("1", pack([1]), SamplingParams(), RequestOptions(), now=1.0).samples
    if first_token_at is not None:
        sample.append(Delta(pack([5])), first_token_at)
        sample.append(Delta(pack([6])), 3.0)
    sample.end(4.0, reason="stop")
    timings = sample.choice("").timings
    assert (timings.ttft, timings.latency) == (ttft, 3.0)


def test_a_text_that_is_cut_keeps_the_time_of_its_first_token() -> None:
    (sample,) = InFlightRequest("1", pack([1]), SamplingParams(), RequestOptions(), now=1.0).samples
    sample.append(Delta(pack([5, 6])), 2.0)
    ids, _ = sample.take()
    assert sample.cut(0, ids, None) == ((), None)
    sample.end(4.0, reason="stop")
    assert (sample.choice("").timings.ttft, sample.usage.output_tokens) == (1.0, 0)


def test_usage_has_the_engine_s_own_count_of_tokens_over_all_attempts() -> None:
    (sample,) = InFlightRequest("1", pack([1]), SamplingParams(), RequestOptions(), now=1.0).samples
    sample.append(Delta(pack([5, 6, 7])), 2.0)
    sample.dispatched("w1", 2, 0.0)
    sample.append(Delta(pack([8, 9])), 3.0)
    sample.append(Delta(b"", finish_reason="stop", output_tokens=1), 3.0)
    assert sample.usage.output_tokens == 3 + 1
    sample.cut(2, (), None)
    assert sample.usage.output_tokens == 2


@pytest.mark.parametrize("first", [True, False])
def test_a_prompt_is_as_long_as_the_engine_of_the_first_attempt_counts_it(first: bool) -> None:
    """A later attempt's prompt has the output of the earlier ones."""
    (sample,) = InFlightRequest("1", pack([1]), SamplingParams(), RequestOptions(), now=1.0).samples
    if not first:
        sample.append(Delta(pack([5, 6, 7])), 2.0)
        sample.dispatched("w1", 2, 0.0)
    sample.append(Delta(b"", finish_reason="stop", prompt_tokens=9), 3.0)
    assert sample.usage.prompt_tokens == (9 if first else 1)


@pytest.mark.parametrize(("open_ended", "expected"), [(False, 50_000), (True, 1024)])
def test_of_an_open_end_no_whole_context_is_expected(open_ended: bool, expected: int) -> None:
    sampling = SamplingParams(max_tokens=50_000)
    (sample,) = InFlightRequest("1", pack([1]), sampling, RequestOptions(), now=1.0, open_ended=open_ended).samples
    assert (sample.expected_tokens, sample.max_tokens) == (expected, 50_000)
    sample.append(Delta(pack([5] * 49_990)), 2.0)
    assert sample.expected_tokens == sample.max_tokens == 10


def scored(length: int) -> tuple[TokenLogprob | None, ...]:
    return (None, *(TokenLogprob(token, -1.0) for token in range(2, length + 1)))


def test_only_the_first_sample_asks_for_the_prompt_s_logprobs() -> None:
    request = InFlightRequest("1", pack([1]), SamplingParams(n=3, prompt_logprobs=2), RequestOptions(), now=1.0)
    assert [sample.sampling.prompt_logprobs for sample in request.samples] == [2, None, None]


def test_the_prompt_s_logprobs_are_asked_for_until_they_came_and_are_told_once() -> None:
    sampling = SamplingParams(prompt_logprobs=2, max_tokens=9)
    (sample,) = InFlightRequest("1", pack([1, 2, 3]), sampling, RequestOptions(), now=1.0).samples
    sample.append(Delta(pack([4, 5])), 2.0)
    assert sample.take_prompt_logprobs() is None
    assert sample.remaining() == msgspec.structs.replace(sampling, max_tokens=7)
    sample.dispatched("w1", 2, 0.0)
    sample.append(Delta(pack([6]), prompt_logprobs=scored(5)), 3.0)
    assert sample.remaining() == SamplingParams(max_tokens=6), "they are here"
    assert sample.take_prompt_logprobs() == scored(3), "the first attempt's output is no prompt to the caller"
    assert sample.take_prompt_logprobs() is None
    sample.append(Delta(pack([7]), prompt_logprobs=scored(6)), 4.0)
    assert (sample.prompt_logprobs, sample.take_prompt_logprobs()) == (scored(3), None)
