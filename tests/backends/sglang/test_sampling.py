from __future__ import annotations

from typing import Any

import msgspec
import pytest

from preble.backends import EngineInfo, EngineRequest
from preble.backends.sglang.sampling import Limits, check, logprob_fields, parameters
from preble.errors import InvalidRequestError
from preble.tokens import pack
from preble.types import STRUCTURES, SamplingParams

INFO = EngineInfo(model="m", vocab_size=50, context_limit=20, kv_tokens=99, block_size=1, max_running=9)
LIMITS = Limits(INFO, seeded=False, tokenizer=True)


def request(length: int = 10, **sampling: Any) -> EngineRequest:
    return EngineRequest(3, pack([1] * length), SamplingParams(**sampling))


def given(length: int = 10, limits: Limits = LIMITS, **sampling: Any) -> dict[str, Any]:
    check(request(length, **sampling), limits)
    return parameters(request(length, **sampling), limits)


def test_every_parameter_of_ours_is_mapped_or_the_clusters_business():
    of_text = {"stop", "include_stop_str_in_output", "skip_special_tokens"}
    ours = set(SamplingParams.__struct_fields__) - of_text - set(STRUCTURES) - {"n", "logprobs", "prompt_logprobs"}
    renamed = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "sampling_seed": "seed"}
    assert {renamed.get(name, name) for name in given()} == ours


def test_the_budget_is_cut_to_the_context():
    cut = given(15, max_tokens=9, min_tokens=9)
    assert (cut["max_new_tokens"], cut["min_new_tokens"]) == (5, 5)
    assert given(15, max_tokens=4)["max_new_tokens"] == 4


def test_the_whole_vocabulary_has_another_number():
    assert [given(top_k=top_k)["top_k"] for top_k in (0, -1, 7)] == [-1, -1, 7]


def test_a_stop_token_outside_the_vocabulary_is_left_out():
    assert given(stop_token_ids=(7, 50))["stop_token_ids"] == [7]


def test_nothing_is_forbidden_at_the_beginning_where_nothing_can_end_it():
    assert given(min_tokens=3, ignore_eos=True)["min_new_tokens"] == 0
    assert given(min_tokens=3, ignore_eos=True, stop_token_ids=(7,))["min_new_tokens"] == 3


@pytest.mark.parametrize(
    ("field", "sampling", "changes"),
    [
        ("repetition_penalty", {"repetition_penalty": 2.1}, {}),
        ("seed", {"seed": 1}, {}),
        ("min_tokens", {"min_tokens": 1}, {"tokenizer": False}),
        ("logit_bias", {"logit_bias": {50: 1}}, {}),
    ],
)
def test_what_sglang_cannot_do_is_refused_by_name(field, sampling, changes):
    with pytest.raises(InvalidRequestError) as caught:
        given(limits=msgspec.structs.replace(LIMITS, **changes), **sampling)
    assert caught.value.field == field


def test_biases_are_named_as_in_json():
    assert given(logit_bias={49: -1.5, 0: 100})["logit_bias"] == {"0": 100.0, "49": -1.5}
    assert given()["logit_bias"] is None


@pytest.mark.parametrize(
    ("sampling", "asked"),
    [({}, (False, 0, -1)), ({"logprobs": 2}, (True, 2, -1)), ({"logprobs": 2, "prompt_logprobs": 4}, (True, 4, 0))],
)
def test_one_number_of_logprobs_is_asked_for(sampling: dict[str, int], asked: tuple[bool, int, int]):
    assert tuple(logprob_fields(SamplingParams(**sampling)).values()) == asked


def test_a_seed_that_changes_nothing_is_taken_and_others_where_they_count():
    assert given(seed=1, temperature=0.0)["sampling_seed"] == 1
    seeded = msgspec.structs.replace(LIMITS, seeded=True)
    assert given(limits=seeded, seed=1)["sampling_seed"] == 1
    assert given(limits=seeded)["sampling_seed"] == 3, "else all requests without one would draw alike"
