"""From an HTTP status, or an error event in a stream, to one of our errors."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime

import msgspec

from preble.errors import (
    ConfigurationError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    PrebleError,
    UnreachableError,
)

LONGEST_MESSAGE = 1000

_GATEWAY = {408, 502, 504}
_BUSY = {429, 503}
_REFUSED = {401, 403, 404, 405}


class ErrorBody(msgspec.Struct):
    """The error object of the OpenAI API; `code` is often the HTTP status."""

    message: str = ""
    code: int | str | None = None


class _Body(msgspec.Struct):
    error: ErrorBody | str | None = None
    message: str | None = None
    detail: str | None = None


def error_of_status(status: int, body: bytes, *, retry_after: float | None = None) -> PrebleError:
    """Return the error for a response with this status.

    It is ConfigurationError if credentials, path or model are refused, OverloadedError with the server's `retry_after`
    in seconds if it has too much load, UnreachableError if a gateway does not reach its server, InvalidRequestError for
    another 4xx, and EngineError otherwise.
    """
    message = f"HTTP {status}: {_message(body)}"
    if status in _REFUSED:
        return ConfigurationError(message)
    if status in _BUSY:
        return OverloadedError(message, retry_after=retry_after)
    if status in _GATEWAY:
        return UnreachableError(message)
    if 400 <= status < 500:
        return InvalidRequestError(message, field="request")
    return EngineError(message)


def error_of_event(error: ErrorBody) -> PrebleError:
    """Return the error for an error event of a stream."""
    status = error.code if isinstance(error.code, int) and 400 <= error.code < 600 else 500
    return error_of_status(status, error.message.encode())


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


def _message(body: bytes) -> str:
    """Return the explanation in a body, in any of the forms that servers use, or else the body itself."""
    try:
        parsed = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        parsed = _Body()
    inner = parsed.error.message if isinstance(parsed.error, ErrorBody) else parsed.error
    text = inner or parsed.message or parsed.detail or body.decode(errors="replace")
    return text.strip()[:LONGEST_MESSAGE] or "no explanation"
