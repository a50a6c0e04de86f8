from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load, StepTiming
from preble.errors import FrameError
from preble.tokens import MAX_TOKENS, pack
from preble.transport import schema
from preble.transport.schema import (
    Abort,
    Broken,
    Failed,
    Hello,
    Ready,
    ResetCache,
    ResetDone,
    ResetFailed,
    StartFailed,
    Step,
    Stop,
    Stopped,
    Stopping,
    Submit,
    Ticket,
    decode_from_worker,
    decode_ticket,
    decode_to_worker,
    encode,
    encode_ticket,
    submitted_id,
)
from preble.types import MAX_NAME, SamplingParams, TokenLogprob

INFO = EngineInfo(model="m", vocab_size=8, context_limit=64, kv_tokens=128, block_size=4, max_running=2)

STOPPED = Delta(pack([5]), None, "stop", 5, (TokenLogprob(5, -0.5, ((5, -0.5),)),))
STOPPED.prompt_logprobs = (None, TokenLogprob(5, -0.5))

TO_WORKER = [
    (
        Submit(
            EngineRequest(7, pack([1, 258]), SamplingParams(max_tokens=5, temperature=0.0), -1, "tent", 2.5, "sql", 1)
        ),
        "92a67375626d69749807c4080100000002010000de0002aa6d61785f746f6b656e7305ab74656d7065726174757265cb0000000000000000"
        "ffa474656e74cb4004000000000000a373716c01",
    ),
    (Abort((1, 300)), "92a561626f72749201cd012c"),
    (ResetCache(3), "92ab72657365745f636163686503"),
    (Stop(1.5), "92a473746f70cb3ff8000000000000"),
]
FROM_WORKER = [
    (Hello(1, "w0", "ab", "n"), "95a568656c6c6f01a27730a26162a16e"),
    (
        Ready(INFO),
        "92a572656164798fa56d6f64656ca16daa766f6361625f73697a6508ad636f6e746578745f6c696d697440a96b765f746f6b656e73cc80"
        "aa626c6f636b5f73697a6504ab6d61785f72756e6e696e6702b17265706f7274735f6576696374696f6e73c3ad7265706f7274735f73"
        "74657073c3ad656f735f746f6b656e5f69647390a4636f7374b06d69737472616c2d37622d6136303030a8616461707465727390"
        "b26d61785f626174636865645f746f6b656e73c0aa6469736369706c696e65a466636673aa706c61696e5f74657874c2"
        "aa7374727563747572657390",
    ),
    (StartFailed("model", "no config.json"), "93ac73746172745f6661696c6564a56d6f64656cae6e6f20636f6e6669672e6a736f6e"),
    (
        Step(
            (Evicted(pack([1, 2]), 1, "s"),),
            (
                (7, Delta(b"", cached_tokens=16)),
                (8, STOPPED),
            ),
            (Failed(9, "too long", "seed"),),
            Load(2, 1, 96),
            (StepTiming(40, 100, 80, 3000, 2, 0.5),),
        ),
        "96a47374657091" + "93c408010000000200000001a173" + "92" + "920798c40010c0c0c0c0c0c0"
        "920898c40405000000c0a473746f70059193" + "05cbbfe0000000000000919205cbbfe0000000000000c0c0"
        "92c09305cbbfe000000000000090"
        "919309a8746f6f206c6f6e67a473656564" + "93020160" + "9196286450cd0bb802cb3fe0000000000000",
    ),
    (ResetDone(3), "92aa72657365745f646f6e6503"),
    (ResetFailed(3, "busy"), "93ac72657365745f6661696c656403a462757379"),
    (Broken("no device"), "92a662726f6b656ea96e6f20646576696365"),
    (Stopping(), "91a873746f7070696e67"),
    (Stopped(), "91a773746f70706564"),
]


@pytest.mark.parametrize(("message", "golden"), TO_WORKER, ids=lambda item: type(item).__name__)
def test_bytes_to_worker(message, golden):
    assert encode(message).hex() == golden
    assert decode_to_worker(bytes.fromhex(golden)) == message


@pytest.mark.parametrize(("message", "golden"), FROM_WORKER, ids=lambda item: type(item).__name__)
def test_bytes_from_worker(message, golden):
    assert encode(message).hex() == golden
    assert decode_from_worker(bytes.fromhex(golden)) == message


def test_every_message_has_golden_bytes():
    to_worker = {type(message) for message, _ in TO_WORKER}
    from_worker = {type(message) for message, _ in FROM_WORKER}
    assert to_worker == set(schema.ToWorker.__args__)
    assert from_worker == set(schema.FromWorker.__args__)


def test_a_submit_that_is_refused_still_tells_its_id():
    wrong = encode(Submit(EngineRequest(300, pack([1]), SamplingParams(), True)))
    with pytest.raises(FrameError, match="got `bool`"):
        decode_to_worker(wrong)
    assert submitted_id(wrong) == 300
    assert submitted_id(encode(Abort((300,)))) is None
    assert submitted_id(wrong[:9]) is None
    assert submitted_id(encode(Submit(EngineRequest(-1, pack([1]), SamplingParams())))) is None


def test_directions_are_apart():
    with pytest.raises(FrameError, match="step"):
        decode_to_worker(encode(FROM_WORKER[3][0]))
    with pytest.raises(FrameError, match="submit"):
        decode_from_worker(encode(TO_WORKER[0][0]))


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_frame_errors(frame):
    for decode in (decode_to_worker, decode_from_worker, decode_ticket):
        with pytest.raises(FrameError):
            decode(frame)


_GOLDEN = [bytes.fromhex(golden) for _, golden in TO_WORKER + FROM_WORKER]


@given(st.sampled_from(_GOLDEN), st.data())
def test_damaged_frames_raise_only_frame_errors(frame, data):
    position = data.draw(st.integers(0, len(frame) - 1))
    damaged = frame[:position] + data.draw(st.binary(max_size=4)) + frame[position + 1 :]
    for decode in (decode_to_worker, decode_from_worker):
        with contextlib.suppress(FrameError):
            decode(damaged)


def _raw(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def _submit(*fields: object) -> bytes:
    return _raw("submit", fields)


def test_a_request_with_every_field_at_its_bound_is_decoded():
    request = EngineRequest((1 << 63) - 1, b"", SamplingParams(), -(1 << 31), "s" * 1000, 86_400.0, "a" * MAX_NAME)
    assert decode_to_worker(encode(Submit(request))) == Submit(request)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x91" * 200_000, id="nesting bomb"),
        pytest.param(b"\x92\xa5abort\xdd\xff\xff\xff\xff", id="length lie"),
        pytest.param(_submit(1, b"123", {}, 0), id="part of a token"),
        pytest.param(_submit(1, bytes(4 * MAX_TOKENS + 4), {}, 0), id="too many tokens"),
        pytest.param(_submit(-1, b"", {}, 0), id="negative id"),
        pytest.param(_submit(1, b"", {"max_tokens": 0}, 0), id="sampling out of bounds"),
        pytest.param(_submit(1, b"", {"logit_processor": "x"}, 0), id="unknown sampling field"),
        pytest.param(_submit(1, b"", {}, 1 << 31), id="priority of more than 32 bits"),
        pytest.param(_submit(1, b"", {}, 0, "s" * 1001), id="long salt"),
        pytest.param(_submit(1, b"", {}, 0, "", None, "", "more"), id="additional field"),
        pytest.param(_submit(1, b"", {}, 0, "", None, "a" * 257), id="long adapter"),
        pytest.param(_submit(1, b"", {}, 0, "", -1.0), id="negative time"),
        pytest.param(_submit(1, b"", {}, 0, "", 86_401.0), id="more than a day"),
        pytest.param(_submit(1), id="missing field"),
        pytest.param(_raw("submit", 1, b"", {}), id="the fields of version 1"),
        pytest.param(_raw("submit"), id="no request"),
        pytest.param(_raw("abort", [1] * (schema.MAX_BATCH + 1)), id="too many ids"),
        pytest.param(_raw("stop", float("nan")), id="nan"),
        pytest.param(_raw("stop", -1.0), id="negative seconds"),
        pytest.param(_raw("exec", "x"), id="unknown tag"),
    ],
)
def test_malformed_frames_to_worker(frame):
    with pytest.raises(FrameError):
        decode_to_worker(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(_raw("hello", 1, "w" * 101, "i", "n"), id="long name"),
        pytest.param(_raw("start_failed", "other", "m"), id="unknown kind"),
        pytest.param(_raw("start_failed", "crash", "m" * 10_001), id="long message"),
        pytest.param(_raw("step", [], [[1, [b"12", None, None, None, None]]], [], [0, 0, 0]), id="part of a token"),
        pytest.param(_raw("step", [[b"12345", 0]], [], [], [0, 0, 0]), id="part of an evicted token"),
        pytest.param(_raw("step", [], [], [], [0, 0, 0], [[1, 1, 1, 0, -0.1]]), id="less than no time"),
        pytest.param(_raw("step", [], [], [], [0, 0, 0], [[1, 1, 1, 0, float("nan")]]), id="nan seconds"),
        pytest.param(_raw("step", [], [], [], [0, 0, 0], [[1, 1, 1, 0, float("inf")]]), id="for ever"),
        pytest.param(_raw("step", [], [], [], [0, 0, 0], [[1, -1, 1, 0, 0.1]]), id="negative context"),
    ],
)
def test_malformed_frames_from_worker(frame):
    with pytest.raises(FrameError):
        decode_from_worker(frame)


def test_the_sender_refuses_what_the_receiver_would(monkeypatch):
    monkeypatch.setattr(schema, "MAX_FRAME", 100)
    message = Submit(EngineRequest(1, bytes(100), SamplingParams()))
    with pytest.raises(FrameError, match="limit is 100"):
        encode(message)
    with pytest.raises(FrameError, match="limit is 100"):
        decode_to_worker(bytes(101))


def _ticket(**changes: object) -> Ticket:
    fields = {"worker": "w0", "incarnation": "ab", "nonce": "n", "address": "ipc:///x", "backend": "sim"}
    return Ticket(**{**fields, **changes})  # type: ignore[arg-type]


def test_ticket_is_one_line_and_returns():
    ticket = _ticket(model="line\nbreak", options={"a": [1, "x", None]})
    line = encode_ticket(ticket)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_ticket(line) == ticket
    assert ticket.identity == b"w0.ab"


@pytest.mark.parametrize("options", [{"a": object()}, {"a": "x" * schema.MAX_TICKET}])
def test_ticket_that_cannot_be_sent(options):
    with pytest.raises(FrameError):
        encode_ticket(_ticket(options=options))


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"null", b"[" * 100_000, encode_ticket(_ticket()).replace(b'"sim"', b'"sim","extra":1')]
)
def test_not_a_ticket(line):
    with pytest.raises(FrameError, match="not a ticket"):
        decode_ticket(line)


def test_ticket_of_another_version():
    with pytest.raises(FrameError, match="version 99"):
        decode_ticket(encode_ticket(_ticket(version=99)))
