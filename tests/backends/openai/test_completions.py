"""`/v1/completions`: what is read from events in the forms that servers give them."""

from __future__ import annotations

import msgspec
import pytest

from preble.backends import Delta, EngineRequest
from preble.backends.openai.completions import CompletionReader, TextCompletions, TokenCompletions
from preble.backends.openai.sse import DONE
from preble.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    PrebleError,
)
from preble.tokens import pack, unpack
from preble.types import SamplingParams
from tests.text.kinds import kind

REQUEST = EngineRequest(1, pack([5]), SamplingParams(max_tokens=3))
MISSING = object()


def reader(*, text: bool = False, **sampling: object) -> CompletionReader:
    request = msgspec.structs.replace(REQUEST, sampling=SamplingParams(**{"max_tokens": 3} | sampling))
    tokenizer, _ = kind("gpt-2")
    api = TextCompletions("m", tokenizer, ids=False) if text else TokenCompletions("m")
    return api.reader(request)


def event(*ids: int, finish: object = None, **fields: object) -> bytes:
    choice = {"index": 0, "text": "?", "token_ids": list(ids), "finish_reason": finish}
    if finish is MISSING:
        del choice["finish_reason"]
    return msgspec.json.encode({"choices": [choice], **fields})


def said(text: str, **usage: object) -> bytes:
    return msgspec.json.encode({"choices": [{"text": text}], **({"usage": usage} if usage else {})})


def read(reader: CompletionReader, *events: bytes) -> list[Delta]:
    return [delta for each in events if (delta := reader.read(each)) is not None]


def ids(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in unpack(delta.tokens)]


@pytest.mark.parametrize("none", ["", None, MISSING, "null", "none", "not_finished"])
def test_a_finish_reason_that_says_nothing_is_no_end(none: object):
    stream = reader()
    assert ids(read(stream, event(10, finish=none), event(11, finish=none))) == [10, 11]
    assert stream.end() is None, "a connection that ends now has broken"
    assert [each.finish_reason for each in read(stream, event(12, finish="stop"), DONE)] == [None, "stop"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"), ("eos", "stop"), ("eos_token", "stop"), ("stop_sequence", "stop"), ("end_turn", "stop"),
        ("tool_calls", "stop"), ("STOP", "stop"), ("length", "length"), ("max_tokens", "length"), ("limit", "length"),
        ("abort", "abort"), ("cancelled", "abort"),
    ],
)  # fmt: skip
def test_finish_reasons_go_by_many_names(word: str, reason: str):
    assert read(reader(), event(10, finish=word), DONE)[-1].finish_reason == reason


@pytest.mark.parametrize(("word", "error"), [("content_filter", InvalidRequestError), ("boredom", EngineError)])
def test_an_end_that_is_none_of_ours_is_an_error(word: str, error: type[PrebleError]):
    with pytest.raises(error, match=word.split("_")[0]):
        reader().read(event(10, finish=word))


@pytest.mark.parametrize(("count", "reason"), [(0, "stop"), (2, "stop"), (3, "length")])
def test_done_without_a_finish_reason_is_an_end(count: int, reason: str):
    deltas = read(reader(), *(event(10 + number) for number in range(count)), event(), DONE)
    assert ids(deltas) == [10, 11, 12][:count]
    assert deltas[-1].finish_reason == reason


def test_done_without_an_answer_is_none():
    stream = reader()
    assert read(stream, DONE) == []
    assert stream.end() is None


def test_text_is_as_long_as_the_server_counts_it():
    for counted, reason in ((2, "stop"), (3, "length")):
        deltas = read(reader(text=True), said("one two three four five"), said("", completion_tokens=counted), DONE)
        assert (deltas[-1].finish_reason, deltas[-1].output_tokens) == (reason, counted)


@pytest.mark.parametrize(
    "events",
    [
        [said("a b"), said("", prompt_tokens=9, completion_tokens=2)],
        [said("a", prompt_tokens=9, completion_tokens=1), said(" b", prompt_tokens=9, completion_tokens=2)],
        [said("a"), said(" b"), b'{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}'],
        [said("a"), said(" b"), b'{"usage": {"prompt_tokens": "9", "completion_tokens": "2"}, "choices": null}'],
        [said("a", prompt_tokens=9, completion_tokens=2), said(" b", prompt_tokens=None), said("", prompt_tokens=0)],
    ],
)
def test_usage_is_the_server_s_wherever_it_tells_it(events: list[bytes]):
    last = read(reader(text=True), *events, DONE)[-1]
    assert (last.prompt_tokens, last.output_tokens) == (9, 2)


@pytest.mark.parametrize(
    "usage",
    ["null", "{}", "[]", "3", '"none"', '{"prompt_tokens": -1, "completion_tokens": 1e30}', '{"prompt_tokens": "x"}'],
)
def test_usage_that_makes_no_sense_is_left_out(usage: str):
    last = read(reader(text=True), said("a"), f'{{"choices": [], "usage": {usage}}}'.encode(), DONE)[-1]
    assert (last.prompt_tokens, last.output_tokens, last.finish_reason) == (None, None, "stop")


def test_cached_tokens_come_from_the_last_usage():
    details = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}
    assert (
        read(reader(), event(10, usage=details), event(11, usage={"prompt_tokens_details": None}), DONE)[
            -1
        ].cached_tokens
        == 4
    )


@pytest.mark.parametrize(
    "harmless",
    [
        b'{"choices": null}', b'{"choices": []}', b'{"choices": [null]}', b"{}", b'{"error": null, "choices": []}',
        b'{"choices": [{"text": null, "token_ids": null, "logprobs": null, "stop_reason": null}], "usage": null}',
        b'{"choices": [{"token_ids": ["10"], "index": "0", "logprobs": {"content": null}, "extra": [1]}], "more": {}}',
        b'{"error": "", "choices": [{"token_ids": [10]}]}', b'{"id": "x", "object": "text_completion", "created": 1.5}',
    ],
)  # fmt: skip
def test_nulls_extras_and_numbers_as_text_do_no_harm(harmless: bytes):
    deltas = read(reader(), harmless, event(11), DONE)
    assert ids(deltas) in ([11], [10, 11])
    assert deltas[-1].finish_reason == "stop"


def test_a_stop_string_of_digits_is_no_token():
    for reason, stop in (("7", None), (7, 7), (True, None), (None, None)):
        choice = {"token_ids": [10], "finish_reason": "stop", "stop_reason": reason}
        assert read(reader(), msgspec.json.encode({"choices": [choice]}), DONE)[-1].stop_reason == stop


def test_log_probabilities_in_another_form_are_an_error_where_they_were_asked_for():
    odd = b'{"choices": [{"token_ids": [10], "logprobs": {"content": [{"token": "x", "logprob": -1}]}}]}'
    assert ids(read(reader(), odd)) == [10]
    with pytest.raises(EngineError, match="without their log-probabilities"):
        reader(logprobs=1).read(odd)


WHY = "the KV cache is exhausted"


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"error": WHY, "error_type": "generation"}, EngineError),
        ({"object": "error", "message": WHY, "type": "BadRequestError", "code": 400}, InvalidRequestError),
        ({"code": 400, "details": WHY}, InvalidRequestError),
        ({"error": {"message": WHY, "code": "429"}}, OverloadedError),
        ({"error": {"message": None, "details": WHY}}, EngineError),
        ({"error": {"code": 404, "hint": WHY}}, ConfigurationError),
        ({"error": ["x", WHY]}, EngineError),
        ({"error": WHY, "choices": [{"token_ids": [1], "finish_reason": "error"}]}, EngineError),
        ({"error": WHY, "choices": "none"}, EngineError),
        ({"detail": [{"loc": ["body"], "msg": WHY}], "choices": 3}, EngineError),
        ({"message": f"This is longer than the maximum model length: {WHY}", "code": 400}, ContextLengthError),
    ],
)
def test_an_error_in_the_stream_is_in_the_server_s_words(document: object, error: type[PrebleError]):
    stream = reader()
    read(stream, event(10))
    with pytest.raises(PrebleError) as caught:
        stream.read(msgspec.json.encode(document))
    assert type(caught.value) is error
    assert str(caught.value).count(WHY) == 1


@pytest.mark.parametrize("page", [b"<html><title>Sign in</title></html>", b"Sign in", b'{"choices": "Sign in"}'])
def test_what_is_no_event_is_shown(page: bytes):
    with pytest.raises(EngineError, match=r"not understood.*Sign in"):
        reader().read(page)
