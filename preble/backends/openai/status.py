"""From an HTTP status, or an error event in a stream, to one of our errors."""

from __future__ import annotations

import math
import re
from email.utils import parsedate_to_datetime

from preble.backends.openai.explanation import Explanation, explanation
from preble.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    PrebleError,
    UnreachableError,
)

_GATEWAY = {408, 502, 504, *range(520, 525)}
_BUSY = {429, 503, 529}
_REFUSED = {401, 402, 403, 404, 405, 407, 501}
_FAILED = {424}  # TGI's, when the model failed
_LENGTH = {400, 413, 422, 500}  # with which servers say that a prompt is too long
_TOO_LONG = re.compile(
    r"maximum context length|maximum model length|context_length_exceeded|exceed_context_size|ContextWindowExceeded"
    r"|(exceed|longer than|greater than|larger than|overflow)[^.]{0,80}"
    r"\b(context (length|size|window)|max_(input_len|seq_len|num_tokens))"
    r"|inputs`?( tokens)?( \+ `?max_new_tokens`?)? must (be <=|have less than) \d+"
    r"|context length of only \d+|prompt is too long",
    re.IGNORECASE,
)


def error_of_status(status: int, body: bytes, *, retry_after: float | None = None) -> PrebleError:
    """Return the error for a response with this status, with the server's own words.

    It is ConfigurationError if credentials, path or model are refused, OverloadedError with the server's `retry_after`
    in seconds if it has too much load, UnreachableError if a gateway does not reach its server, ContextLengthError if
    the words say that the prompt is too long, InvalidRequestError for another 4xx, and EngineError otherwise.
    """
    said = explanation(body)
    return _error(status, said, f"HTTP {status}: {said.text}", retry_after)


def error_of_event(said: Explanation) -> PrebleError:
    """Return the error for an error event of a stream, or for a document that a server sends with status 200."""
    return _error(said.status or 500, said, f"the server ended the stream: {said.text}", None)


def retry_after_seconds(header: str | None, *, now: float) -> float | None:
    """Return the seconds of a Retry-After header, which holds these or a date; None for nonsense or no header.

    `now` is in seconds since 1970. A date that has passed is 0 seconds away. More than a day counts as nonsense.
    """
    try:
        value = float(header or "")
    except ValueError:
        value = _seconds_until(header or "", now)
    return value if 0 <= value <= 86_400 else None


def _seconds_until(date: str, now: float) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - now)
    except (ValueError, OverflowError):
        return math.nan


def _error(status: int, said: Explanation, message: str, retry_after: float | None) -> PrebleError:
    if status in _LENGTH and _TOO_LONG.search(f"{said.kind} {said.text}"):
        return ContextLengthError(message, field="prompt")
    if status in _REFUSED:
        return ConfigurationError(message)
    if status in _BUSY:
        return OverloadedError(message, retry_after=retry_after)
    if status in _GATEWAY:
        return UnreachableError(message)
    if 400 <= status < 500 and status not in _FAILED:
        return InvalidRequestError(message, field="request")
    return EngineError(message)
