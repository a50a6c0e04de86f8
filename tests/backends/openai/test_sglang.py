"""SGLang's `/generate`: what its events say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from preble.backends import Delta, EngineRequest
from preble.backends.openai.sglang import Generate
from preble.errors import EngineError, InvalidRequestError, OverloadedError, PrebleError
from preble.tokens import pack
from preble.types import SamplingParams

WHY = "the KV cache is exhausted"


def read(sampling: dict[str, Any], *events: tuple[list[int], int]) -> list[Delta | None]:
    """The deltas of events with these ids, and so many ids in all."""
    reader = Generate().reader(EngineRequest(1, pack([5]), SamplingParams(**sampling)))
    bodies = ({"output_ids": ids, "meta_info": {"completion_tokens": total}} for ids, total in events)
    return [reader.read(msgspec.json.encode(body)) for body in bodies]


@pytest.mark.parametrize("repeated", [False, True], ids=["new ids", "all ids so far"])
def test_a_stop_token_that_sglang_lets_pass_ends_the_stream(repeated: bool):
    second = [1, 7, 7, 8] if repeated else [7, 8]
    sampling = {"ignore_eos": True, "stop_token_ids": (7,), "min_tokens": 3}
    first, last = read(sampling, ([1, 7], 2), (second, 4))
    assert first == Delta(pack([1, 7]))
    assert last == Delta(pack([7]), finish_reason="stop", stop_reason=7)


def test_where_sglang_looks_for_stop_tokens_nobody_else_does():
    assert read({"stop_token_ids": (7,)}, ([7, 8], 2)) == [Delta(pack([7, 8]))]


def sent(priority: int, sign: int) -> Any:
    body = Generate(priority=sign).body(EngineRequest(1, pack([5]), SamplingParams(), priority))
    return msgspec.json.decode(body).get("priority")


def test_a_lower_number_stays_more_urgent_whichever_the_server_takes_first():
    assert [sent(priority, 1) for priority in (-5, 0, 5)] == [-5, 0, 5]
    assert [sent(priority, -1) for priority in (-5, 0, 5)] == [5, 0, -5]


def test_where_priorities_are_ignored_none_is_sent_and_that_is_said_once(caplog: pytest.LogCaptureFixture):
    api = Generate("http://a", priority=0)
    for priority in (0, 0, 5, -5):
        body = api.body(EngineRequest(1, pack([5]), SamplingParams(), priority))
        assert b"priority" not in body
    assert [record.getMessage() for record in caplog.records] == [
        "http://a: priorities are ignored; start it with --enable-priority-scheduling"
    ]


def test_nulls_and_numbers_as_text_do_no_harm():
    reader = Generate().reader(EngineRequest(1, pack([5]), SamplingParams()))
    events: list[Any] = [
        {},
        {"meta_info": None, "output_ids": None, "error": None},
        {"meta_info": {"finish_reason": None, "completion_tokens": None, "cached_tokens": None}, "output_ids": None},
        {"meta_info": {"finish_reason": "", "completion_tokens": "1"}, "output_ids": ["7"], "more": []},
        {"meta_info": {"finish_reason": {"type": None, "matched": {}}, "completion_tokens": 2}, "output_ids": [8]},
    ]
    deltas = [delta for event in events if (delta := reader.read(msgspec.json.encode(event))) is not None]
    assert b"".join(delta.tokens for delta in deltas) == pack([7, 8])
    assert {delta.finish_reason for delta in deltas} == {None}
    assert reader.end() is None, "a connection that ends now has broken"


@pytest.mark.parametrize("finish", ["length", {"type": "length"}, {"type": "length", "matched": None, "length": 2}])
def test_a_finish_reason_may_be_a_word(finish: Any):
    event = {"meta_info": {"finish_reason": finish, "completion_tokens": 1}, "output_ids": [7]}
    assert Generate().reader(EngineRequest(1, pack([5]), SamplingParams())).read(msgspec.json.encode(event)) == Delta(
        pack([7]), finish_reason="length"
    )


@pytest.mark.parametrize(("most", "reason"), [(2, "length"), (3, "stop")])
def test_done_without_a_finish_reason_is_an_end(most: int, reason: str):
    reader = Generate().reader(EngineRequest(1, pack([5]), SamplingParams(max_tokens=most)))
    assert reader.read(b"[DONE]") is None, "nothing was answered"
    reader.read(msgspec.json.encode({"meta_info": {"completion_tokens": 2}, "output_ids": [7, 8]}))
    assert reader.read(b"[DONE]") == Delta(b"", finish_reason=reason)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"error": {"message": WHY}}, EngineError),
        ({"error": {"message": WHY, "code": 400}}, InvalidRequestError),
        ({"object": "error", "message": WHY, "code": 400}, InvalidRequestError),
        ({"detail": WHY}, EngineError),
        ({"meta_info": {"finish_reason": {"type": "abort", "message": WHY, "status_code": 503}}}, OverloadedError),
        ({"meta_info": {"finish_reason": WHY}}, EngineError),
    ],
)
def test_an_error_is_in_the_server_s_words(document: Any, error: type[PrebleError]):
    with pytest.raises(PrebleError, match=f"(?i){WHY}") as caught:
        Generate().reader(EngineRequest(1, pack([5]), SamplingParams())).read(msgspec.json.encode(document))
    assert type(caught.value) is error
