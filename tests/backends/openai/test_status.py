from __future__ import annotations

from datetime import UTC, datetime

import pytest

from preble.backends.openai.backoff import pause
from preble.backends.openai.status import (
    LONGEST_MESSAGE,
    ErrorBody,
    error_of_event,
    error_of_status,
    retry_after_seconds,
)
from preble.errors import (
    ConfigurationError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnreachableError,
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError), (401, ConfigurationError), (403, ConfigurationError), (404, ConfigurationError),
        (408, UnreachableError), (413, InvalidRequestError), (422, InvalidRequestError), (429, OverloadedError),
        (500, EngineError), (502, UnreachableError), (503, OverloadedError), (504, UnreachableError),
        (301, EngineError),
    ],
)  # fmt: skip
def test_who_is_at_fault_is_in_the_type(status: int, kind: type[Exception]):
    assert type(error_of_status(status, b"")) is kind
    if status >= 400:
        assert type(error_of_event(ErrorBody("", status))) is kind


def test_the_wait_that_the_server_asks_for_is_kept():
    wait = retry_after_seconds("2.5", now=0.0)
    assert error_of_status(429, b"", retry_after=wait).retry_after == 2.5
    for nonsense in (None, "", "soon", "-1", "nan", "100000", "Wed, 32 Oct 2026 07:28:00 GMT"):
        assert retry_after_seconds(nonsense, now=0.0) is None


@pytest.mark.parametrize(("before", "seconds"), [(10.0, 10.0), (-10.0, 0.0), (100_000.0, None)])
def test_the_wait_may_be_a_date(before: float, seconds: float | None):
    then = datetime(2026, 10, 21, 7, 28, tzinfo=UTC).timestamp()
    assert retry_after_seconds("Wed, 21 Oct 2026 07:28:00 GMT", now=then - before) == seconds


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "why", "type": "BadRequestError", "param": "x", "code": 400}}',
        b'{"error": {"message": "why", "code": "invalid"}}',
        b'{"error": "why"}',
        b'{"object": "error", "message": "why"}',
        b'{"detail": "why"}',
        b"why",
    ],
)
def test_the_explanation_is_found_where_servers_put_it(body: bytes):
    assert str(error_of_status(500, body)) == "HTTP 500: why"


@pytest.mark.parametrize("body", [b'{"detail": [{"msg": "why"}]}', b"\xff why", b'{"error": 7, "x": "why"}'])
def test_other_bodies_are_shown_as_they_are(body: bytes):
    assert "why" in str(error_of_status(400, body))


def test_long_explanations_are_cut():
    assert len(str(error_of_status(500, b"x" * 100_000))) < LONGEST_MESSAGE + 50


def test_pauses_grow_up_to_a_limit_and_are_no_shorter_than_told():
    for failures in range(1, 40):
        grown = min(30.0, 0.1 * 2 ** (failures - 1))
        assert grown / 2 <= pause(failures, first=0.1, limit=30.0) <= grown
    assert pause(1, first=0.1, limit=30.0, retry_after=5.0) == 5.0
    assert pause(1, first=0.1, limit=30.0, retry_after=500.0) == 30.0
