from __future__ import annotations

import json
import math
import re
from typing import Any, get_type_hints

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.errors import InvalidRequestError
from preble.types import (
    MAX_BIASES,
    MAX_LOGPROBS,
    MAX_NAME,
    MAX_SAMPLES,
    MAX_STOPS,
    STRUCTURES,
    Choice,
    Chunk,
    Generation,
    RequestKeywords,
    RequestOptions,
    SamplingParams,
    Timings,
    TokenLogprob,
    Usage,
    request_options,
)

INTEGERS = {
    "max_tokens": (1, 1 << 22),
    "min_tokens": (0, 1 << 22),
    "top_k": (-1, 1 << 31),
    "seed": (-(1 << 63), (1 << 63) - 1),
    "logprobs": (0, MAX_LOGPROBS),
    "prompt_logprobs": (0, MAX_LOGPROBS),
    "n": (1, MAX_SAMPLES),
}
NUMBERS = {
    "temperature": (0.0, 100.0),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (1e-3, 100.0),
}
FLAGS = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")
STOPS = ("stop", "stop_token_ids")
MAYBE_NONE = {"seed", "logprobs", "prompt_logprobs", "max_tokens"}
NOT_NUMBERS: list[Any] = ["1", b"1", [], True, False, 1j, math.nan, math.inf, -math.inf, 10**400, -(10**400)]


def refused(**arguments: Any) -> str:
    """The message of the refusal, which names the field."""
    (name,) = arguments
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**arguments)
    assert caught.value.field == name
    assert str(caught.value).startswith(f"{name}: ")
    return str(caught.value)


def test_every_field_is_tested_here():
    assert {*INTEGERS, *NUMBERS, *FLAGS, *STOPS, "logit_bias", *STRUCTURES} == set(SamplingParams.__struct_fields__)


@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_has_its_bounds(name: str):
    low, high = INTEGERS[name]
    for value in (low, high):
        assert getattr(SamplingParams(**{name: value}), name) == value
    assert f"[{low}, " in refused(**{name: low - 1})
    assert str(high) in refused(**{name: high + 1})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [*NOT_NUMBERS, 1.0])
def test_an_integer_is_one(name: str, value: Any):
    refused(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_has_its_bounds(name: str):
    low, high = NUMBERS[name]
    for value in (low, high, int(high)):
        assert getattr(SamplingParams(**{name: value}), name) == value
    assert f"[{low:g}, {high:g}]" in refused(**{name: math.nextafter(low, -math.inf)})
    assert f"[{low:g}, {high:g}]" in refused(**{name: math.nextafter(high, math.inf)})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_number_is_one(name: str, value: Any):
    refused(**{name: value})


@pytest.mark.parametrize("name", sorted({*INTEGERS, *NUMBERS, *FLAGS, *STOPS} - MAYBE_NONE))
def test_none_is_no_value(name: str):
    refused(**{name: None})


def test_what_may_be_absent_is_none():
    assert SamplingParams(seed=None, logprobs=None, prompt_logprobs=None, logit_bias=None) == SamplingParams()


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [0, 1, "yes", 1.0])
def test_a_flag_is_true_or_false(name: str, value: Any):
    assert getattr(SamplingParams(**{name: True}), name) is True
    assert "must be true or false" in refused(**{name: value})


@pytest.mark.parametrize(("given", "limit"), [({}, 128), ({"max_tokens": 7}, 7), ({"max_tokens": None}, 1 << 22)])
def test_the_limit_of_tokens_is_a_number(given: dict[str, Any], limit: int):
    assert SamplingParams(**given).token_limit == limit
    assert msgspec.json.decode(msgspec.json.encode(SamplingParams(**given)), type=SamplingParams).token_limit == limit


def test_the_minimum_is_not_above_the_maximum():
    assert SamplingParams(min_tokens=5, max_tokens=5).min_tokens == 5
    with pytest.raises(InvalidRequestError, match=r"min_tokens: must be at most max_tokens \(5\)"):
        SamplingParams(min_tokens=6, max_tokens=5)


@pytest.mark.parametrize("value", ["", 0, [1], [b"end"], ("end", ""), {"end": 1}, "\ud800", ["end", "a\udfffb"]])
def test_stop_is_a_sequence_of_text(value: Any):
    assert "must be a sequence of non-empty strings" in refused(stop=value)


def test_numbers_of_numpy_go_over_the_wire_or_are_refused():
    params = SamplingParams(temperature=np.float64(0.5), logit_bias={7: np.float64(1)})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
    refused(temperature=np.float32(0.5))
    refused(max_tokens=np.int64(5))


def test_a_stop_string_may_stand_alone():
    assert SamplingParams(stop="end") == SamplingParams(stop=["end"]) == SamplingParams(stop=("end",))


@pytest.mark.parametrize("bias", [-100, 100, 0, 1.5, -100.0])
def test_a_bias_has_its_bounds(bias: float):
    assert SamplingParams(logit_bias={7: bias, 3: 1}).biases == {3: 1.0, 7: float(bias)}
    for beyond in (math.nextafter(100, math.inf), -101):
        assert "must be a number in [-100, 100]" in refused(logit_bias={7: bias, 8: beyond})


@pytest.mark.parametrize("value", [NOT_NUMBERS, 5, "7", [7], ((7,),), {-1: 1}, {2**31: 1}, {"seven": 1}, {True: 1}])
def test_a_bias_is_a_mapping_of_ids_to_numbers(value: Any):
    refused(logit_bias=value)


@pytest.mark.parametrize("value", [None, *NOT_NUMBERS])
def test_a_bias_is_a_number(value: Any):
    refused(logit_bias={7: value})


def test_biases_are_limited_in_number_and_none_are_as_not_given():
    assert len(SamplingParams(logit_bias=dict.fromkeys(range(MAX_BIASES), 1)).biases) == MAX_BIASES
    assert f"at most {MAX_BIASES}" in refused(logit_bias=dict.fromkeys(range(MAX_BIASES + 1), 1))
    assert SamplingParams(logit_bias={}) == SamplingParams()


def test_the_ids_of_biases_may_be_text_as_json_has_them():
    decoded = msgspec.json.decode(b'{"logit_bias": {"7": -2}}', type=SamplingParams)
    assert decoded == SamplingParams(logit_bias={"7": -2}) == SamplingParams(logit_bias={7: -2})  # type: ignore[dict-item]


def test_what_the_caller_changes_later_changes_nothing():
    stops, ids, biases = ["a"], [1], {5: 1.0}
    params = SamplingParams(stop=stops, stop_token_ids=ids, logit_bias=biases)
    before = hash(params)
    stops.append("b"), ids.append(2), biases.update({6: 2.0})
    params.biases[7] = 3.0
    assert (params.stop, params.stop_token_ids, params.biases) == (("a",), (1,), {5: 1.0})
    assert hash(params) == before
    assert params == SamplingParams(stop=("a",), stop_token_ids=(1,), logit_bias={5: 1})


@pytest.mark.parametrize("value", ["", "end", 0, 5, ["5"], [1.0], [True], [-1], [2**31], [2**70]])
def test_stop_token_ids_are_a_sequence_of_ids(value: Any):
    assert "must be a sequence of token ids" in refused(stop_token_ids=value)


def test_stops_are_limited_in_number():
    assert len(SamplingParams(stop=("x",) * MAX_STOPS, stop_token_ids=(0,) * MAX_STOPS).stop) == MAX_STOPS
    assert f"at most {MAX_STOPS}" in refused(stop=["x"] * (MAX_STOPS + 1))
    assert f"at most {MAX_STOPS}" in refused(stop_token_ids=[0] * (MAX_STOPS + 1))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_token", "unknown field of SamplingParams, did you mean 'max_tokens'?"),
        ("qqq", "unknown field of SamplingParams, not one of choice, frequency_penalty"),
        ("timeout", "is an option of the request, pass generate(..., timeout=...)"),
    ],
)
def test_an_unknown_field_names_the_nearest(name: str, hint: str):
    with pytest.raises(InvalidRequestError, match=f"^{name}: {re.escape(hint)}") as caught:
        SamplingParams(n=2, **{name: 1})
    assert caught.value.field == name


def test_an_unknown_field_of_a_message_and_a_positional_one_are_refused():
    with pytest.raises(TypeError):
        SamplingParams(16)  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="best_of"):
        msgspec.json.decode(b'{"best_of": 2}', type=SamplingParams)


def test_they_do_not_change():
    with pytest.raises(AttributeError):
        SamplingParams().n = 2  # type: ignore[misc]


def test_a_type_checker_sees_the_options_that_there_are():
    assert get_type_hints(RequestKeywords) == get_type_hints(RequestOptions)
    assert RequestKeywords.__optional_keys__ == set(RequestOptions.__struct_fields__)


def test_an_unknown_option_is_told_from_one_of_sampling_and_from_all_there_are():
    for name, hint in (
        ("deadlin", "unknown option, did you mean 'deadline'"),
        ("max_tokens", r"is a field of sampling, pass SamplingParams\(max_tokens=...\)"),
        ("qqq", "unknown option, not one of add_special_tokens, chat_template_kwargs, deadline, lora"),
    ):
        with pytest.raises(InvalidRequestError, match=f"^{name}: {hint}") as caught:
            request_options({"session": "s", name: 1})  # type: ignore[misc]
        assert caught.value.field == name


@pytest.mark.parametrize("value", ["", "a\nb", "a\0", "\ud800", "a" * (MAX_NAME + 1), 7, b"id"])
def test_a_request_id_is_printable_text(value: Any):
    assert RequestOptions(request_id="a" * MAX_NAME).request_id == "a" * MAX_NAME
    with pytest.raises(InvalidRequestError, match="request_id: must be printable text of 1 to 256 characters"):
        RequestOptions(request_id=value)


@pytest.mark.parametrize(
    ("options", "until"),
    [
        ({}, None),
        ({"timeout": 3}, 13.0),
        ({"deadline": 12.0}, 12.0),
        ({"timeout": 3, "deadline": 12.0}, 12.0),
        ({"timeout": 1.5, "deadline": 12.0}, 11.5),
    ],
)
def test_a_request_must_be_done_by_the_earlier_of_its_ends(options: dict[str, Any], until: float | None):
    assert RequestOptions(**options).until(10.0) == until


finite = {name: st.floats(low, high) for name, (low, high) in NUMBERS.items()}
whole = {name: st.integers(low, high) for name, (low, high) in INTEGERS.items() if name != "min_tokens"}
params = st.fixed_dictionaries(
    {},
    optional=finite
    | whole
    | {name: st.booleans() for name in FLAGS}
    | {"stop": st.lists(st.text(min_size=1, alphabet=st.characters(codec="utf-8")), max_size=3).map(tuple)}
    | {"stop_token_ids": st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple)}
    | {"logit_bias": st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100), max_size=3)},
).map(lambda fields: SamplingParams(**fields))


@given(params)
def test_what_is_valid_goes_over_the_wire_and_back(sampling: SamplingParams):
    for codec in (msgspec.msgpack, msgspec.json):
        assert codec.decode(codec.encode(sampling), type=SamplingParams) == sampling


def test_lists_of_stops_arrive_as_tuples():
    sampling = SamplingParams(stop=["a"], stop_token_ids=[1])  # type: ignore[arg-type]
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(sampling), type=SamplingParams)
    assert (decoded.stop, decoded.stop_token_ids) == (("a",), (1,))


def test_defaults_take_no_room_on_the_wire():
    assert msgspec.json.encode(SamplingParams()) == b"{}"
    assert len(msgspec.msgpack.encode(SamplingParams())) <= 3


def test_what_is_invalid_on_the_wire_is_refused_there():
    for raw in (b'{"n": 0}', b'{"temperature": -1}', b'{"stop": null}', b'{"ignore_eos": 1}', b'{"stop": [""]}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(raw, type=SamplingParams)


def test_a_generation_shows_its_first_sample():
    usage, timings = Usage(10, 4, 2), Timings(0.1, 0.2)
    samples = tuple(
        Choice(
            index=index,
            text=f"text {index}",
            token_ids=(index, 2),
            finish_reason="stop",
            stop_reason=None,
            logprobs=(),
            worker=f"w{index}",
            usage=usage,
            timings=timings,
        )
        for index in range(2)
    )
    generation = Generation("r1", samples)
    assert generation.to_dict()["text"] == "text 0"
    for name in ("text", "token_ids", "finish_reason", "logprobs", "usage", "timings", "worker"):
        assert getattr(generation, name) == getattr(samples[0], name)


def test_plain_data_has_every_field_by_name_and_only_what_json_has():
    top = ((7, -0.5), (8, -math.inf))
    chunk = Chunk(1, "é", (7,), (TokenLogprob(7, -0.5, top),), "stop", 7, Usage(3, 2, 1), "w0", "r1")
    assert chunk.to_dict() == {
        "index": 1,
        "text": "é",
        "token_ids": [7],
        "logprobs": [{"token_id": 7, "logprob": -0.5, "top": [[7, -0.5], [8, None]]}],
        "finish_reason": "stop",
        "stop_reason": 7,
        "usage": {"prompt_tokens": 3, "cached_tokens": 2, "output_tokens": 1},
        "worker": "w0",
        "request_id": "r1",
        "prompt_logprobs": None,
    }
    assert json.loads(json.dumps(chunk.to_dict(), allow_nan=False)) == chunk.to_dict()


def test_a_form_is_kept_as_immutable_text():
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    sampling = SamplingParams(json_schema=schema)
    schema["type"] = "array"
    assert sampling.json_schema == '{"type":"object","properties":{"b":{},"a":{}}}'
    assert hash(sampling) == hash(SamplingParams(json_schema=sampling.json_schema))
    assert (sampling.structure, SamplingParams().structure) == ("json_schema", None)
    assert SamplingParams(choice=["x", "y"]).choice == ("x", "y")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sampling), type=SamplingParams) == sampling


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": "[]"}, "json_schema"),
        ({"json_schema": 1}, "json_schema"),
        ({"json_schema": {"a": object()}}, "json_schema"),
        ({"regex": ""}, "regex"),
        ({"regex": 1}, "regex"),
        ({"grammar": "\ud800"}, "grammar"),
        ({"grammar": "a" * (1 << 18) + "a"}, "grammar"),
        ({"choice": "yes"}, "choice"),
        ({"choice": ["yes", ""]}, "choice"),
        ({"choice": ["yes"] * 1025}, "choice"),
        ({"regex": "a", "choice": ["a"]}, "choice"),
        ({"json_schema": {}, "grammar": "start: x"}, "grammar"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_a_wrong_form_is_named(fields, field):
    with pytest.raises(InvalidRequestError) as raised:
        SamplingParams(**fields)
    assert raised.value.field == field
