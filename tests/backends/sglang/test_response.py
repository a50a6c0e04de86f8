from __future__ import annotations

from typing import Any

import pytest

from preble.backends import Delta
from preble.backends.sglang.response import Response, aborted
from preble.errors import EngineError
from preble.tokens import pack, unpack
from preble.types import SamplingParams, TokenLogprob

LENGTH = {"type": "length", "length": 9}


def output(ids: list[int], finish: dict[str, Any] | None = None, *, total: int = 0, **meta: Any) -> dict[str, Any]:
    return {"output_ids": ids, "meta_info": {"finish_reason": finish, "completion_tokens": total, **meta}}


def response(**sampling: Any) -> Response:
    return Response(SamplingParams(**sampling), (2,))


def test_the_cached_count_is_told_once_and_is_the_first():
    one = response()
    deltas = [one.delta(output([number], cached_tokens=cached)) for number, cached in ((5, 32), (6, 64))]
    assert deltas == [Delta(pack([5]), 32), Delta(pack([6]))]


@pytest.mark.parametrize(
    ("finish", "told"),
    [
        (LENGTH, ("length", None)),
        ({"type": "stop", "matched": 2}, ("stop", None)),
        ({"type": "stop", "matched": 7}, ("stop", 7)),
    ],
    ids=["length", "end of text", "stop token"],
)
def test_finish_reasons(finish, told):
    one = response(stop_token_ids=(7,))
    delta = one.delta(output([4], finish))
    assert (delta.finish_reason, delta.stop_reason) == told
    assert one.ended


@pytest.mark.parametrize(
    "finish",
    [{"type": "abort", "message": "queue full", "status_code": 503}, {"type": "stop", "matched": "NaN happened"}],
)
def test_what_sglang_gives_up_is_an_error(finish):
    with pytest.raises(EngineError, match=r"queue full|NaN"):
        response().delta(output([], finish))


def test_our_abort_ends_after_what_was_not_read_yet_and_repeats_nothing():
    one = response()
    one.delta(output([4, 5]))
    finish = aborted(3)["meta_info"]["finish_reason"]
    delta = one.delta(output([6, 6], finish, total=3))  # a token, and the abort that brings it once more
    assert (unpack(delta.tokens), delta.finish_reason) == ((6,), "abort")
    assert one.ended
    assert response().delta(aborted(0)) == Delta(b"", finish_reason="abort")


def test_where_end_tokens_are_ignored_stop_tokens_are_not():
    one = response(stop_token_ids=(7,), ignore_eos=True, min_tokens=3)
    assert not one.delta(output([7, 2])).finish_reason
    delta = one.delta(output([8, 7, 9], LENGTH))
    assert delta == Delta(pack([8, 7]), None, "stop", 7)
    assert one.ended


def test_logprobs_are_those_of_the_tokens_told():
    chosen = [(-0.5, 8, None), (-0.7, 7, None), (-0.9, 9, None)]
    meta = {"output_token_logprobs": chosen, "output_top_logprobs": [[(-0.5, 8, None), (-2.0, 3, None)], None, None]}
    delta = response(logprobs=2, stop_token_ids=(7,), ignore_eos=True).delta(output([8, 7, 9], **meta))
    assert delta.logprobs == (TokenLogprob(8, -0.5, ((8, -0.5), (3, -2.0))), TokenLogprob(7, -0.7))
    assert response().delta(output([8], **meta)).logprobs is None


PROMPT = {
    "input_token_logprobs": [(None, 8, None), (-1.5, 9, None)],
    "input_top_logprobs": [None, [(-0.5, 4, None), (-1.5, 9, None), (-2.0, 3, None)]],
    "output_token_logprobs": [(-0.25, 5, None)],
    "output_top_logprobs": [[(-0.25, 5, None), (-3.0, 6, None), (-4.0, 7, None)]],
}


def test_logprobs_of_the_prompt_are_told_once_and_of_each_as_many_as_asked_for():
    one = response(logprobs=1, prompt_logprobs=2)
    first, second = one.delta(output([], total=0)), one.delta(output([5], total=1, **PROMPT))
    assert (first.prompt_logprobs, one.delta(output([5], total=2, **PROMPT)).prompt_logprobs) == (None, None)
    assert second.prompt_logprobs == (None, TokenLogprob(9, -1.5, ((4, -0.5), (9, -1.5))))
    assert second.logprobs == (TokenLogprob(5, -0.25, ((5, -0.25),)),)


def test_nobody_gets_the_logprobs_that_only_the_prompt_was_asked_for():
    delta = response(prompt_logprobs=0).delta(output([5], total=1, **PROMPT))
    assert (delta.logprobs, delta.prompt_logprobs) == (None, (None, TokenLogprob(9, -1.5)))
