from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from preble.backends.openai.backoff import pause
from preble.backends.openai.explanation import LONGEST, Explanation
from preble.backends.openai.status import error_of_event, error_of_status, retry_after_seconds
from preble.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnreachableError,
)

TOO_LONG = {
    "OpenAI": (400, {"error": {"message": "Shorten it", "code": "context_length_exceeded"}}),
    "vLLM": (400, "This model's maximum context length is 64 tokens. However, you requested 70 tokens."),
    "vLLM, newer": (400, "The decoder prompt (length 70) is longer than the maximum model length of 64."),
    "SGLang": (400, "The input (70 tokens) is longer than the model's context length (64 tokens)."),
    "SGLang, with its output": (400, "Requested token count exceeds the model's maximum context length of 64 tokens."),
    "llama.cpp": (400, {"error": {"code": 400, "message": "too large", "type": "exceed_context_size_error"}}),
    "llama.cpp, older": (500, "the request exceeds the available context size. try increasing the context size"),
    "TGI": (422, "Input validation error: `inputs` must have less than 64 tokens. Given: 70"),
    "TGI, with its output": (422, "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 60 and 10"),
    "Ollama": (400, "the input length exceeds the context length"),
    "LM Studio": (400, "Trying to keep 70 tokens. However, the model is loaded with context length of only 64"),
    "TensorRT-LLM": (400, "The prompt length (70) should not exceed max_num_tokens (64)"),
    "LiteLLM": (400, "litellm.ContextWindowExceededError: Too many"),
    "a proxy": (400, "prompt is too long: 70 tokens > 64 maximum"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError), (401, ConfigurationError), (403, ConfigurationError), (404, ConfigurationError),
        (402, ConfigurationError), (408, UnreachableError), (413, InvalidRequestError), (422, InvalidRequestError),
        (424, EngineError), (429, OverloadedError), (500, EngineError), (502, UnreachableError),
        (503, OverloadedError), (504, UnreachableError), (522, UnreachableError), (529, OverloadedError),
        (301, EngineError),
    ],
)  # fmt: skip
def test_who_is_at_fault_is_in_the_type(status: int, kind: type[Exception]):
    assert type(error_of_status(status, b"")) is kind
    if status >= 400:
        assert type(error_of_event(Explanation("", status))) is kind


def test_an_error_in_a_stream_that_names_no_kind_is_the_engine_s():
    error = error_of_event(Explanation("out of memory"))
    assert type(error) is EngineError
    assert str(error) == "the server ended the stream: out of memory"


@pytest.mark.parametrize("server", TOO_LONG)
def test_a_prompt_that_is_too_long_is_known_by_the_server_s_words(server: str):
    status, said = TOO_LONG[server]
    body = said.encode() if isinstance(said, str) else msgspec.json.encode(said)
    error = error_of_status(status, body)
    assert type(error) is ContextLengthError
    assert error.field == "prompt"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "max_tokens must be at least 1, got 0"),
        (500, "CUDA out of memory while the context was filled"),
        (429, "This model's maximum context length is busy"),
        (422, "top_p is greater than 1. See the docs on the context length."),
    ],
)
def test_other_words_are_not_taken_for_that(status: int, words: str):
    assert type(error_of_status(status, words.encode())) is not ContextLengthError


def test_the_wait_that_the_server_asks_for_is_kept():
    wait = retry_after_seconds("2.5", now=0.0)
    assert error_of_status(429, b"", retry_after=wait).retry_after == 2.5
    for nonsense in (None, "", "soon", "-1", "nan", "100000", "Wed, 32 Oct 2026 07:28:00 GMT"):
        assert retry_after_seconds(nonsense, now=0.0) is None


@pytest.mark.parametrize(("before", "seconds"), [(10.0, 10.0), (-10.0, 0.0), (100_000.0, None)])
def test_the_wait_may_be_a_date(before: float, seconds: float | None):
    then = datetime(2026, 10, 21, 7, 28, tzinfo=UTC).timestamp()
    assert retry_after_seconds("Wed, 21 Oct 2026 07:28:00 GMT", now=then - before) == seconds


def test_the_server_s_words_follow_the_status_and_are_cut():
    assert str(error_of_status(500, b'{"error": {"message": "why", "code": 500}}')) == "HTTP 500: why"
    assert len(str(error_of_status(500, b"x" * 100_000))) < LONGEST + 50


def test_pauses_grow_up_to_a_limit_and_are_no_shorter_than_told():
    for failures in range(1, 40):
        grown = min(30.0, 0.1 * 2 ** (failures - 1))
        assert grown / 2 <= pause(failures, first=0.1, limit=30.0) <= grown
    assert pause(1, first=0.1, limit=30.0, retry_after=5.0) == 5.0
    assert pause(1, first=0.1, limit=30.0, retry_after=500.0) == 30.0
