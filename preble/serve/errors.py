"""From an error to an HTTP answer: status, headers, and the body of OpenAI's protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from preble.errors import (
    ContextLengthError,
    DeadlineExceededError,
    InvalidRequestError,
    NoWorkersError,
    OverloadedError,
    PrebleError,
    StateError,
    WorkerLostError,
    WorkerTimeoutError,
)


class HttpError(Exception):
    """What is wrong with a request before the cluster sees it. `param` names a field of its body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers or {}


class Failure(msgspec.Struct, frozen=True):
    """What an error is over HTTP. `retry_after` is in seconds, for what may succeed later."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None
    headers: Mapping[str, str] = {}


Refusal = Callable[[Failure, str | None], dict[str, Any]]
"""Makes the body of a failure; the second argument is the request's id, if it has one."""

_STATUS: tuple[tuple[type[PrebleError], int, str], ...] = (
    (ContextLengthError, 400, "context_length_exceeded"),
    (InvalidRequestError, 400, "invalid_value"),
    (OverloadedError, 429, "overloaded"),
    (NoWorkersError, 503, "no_workers"),
    (StateError, 503, "not_serving"),
    (DeadlineExceededError, 504, "deadline_exceeded"),
    (WorkerTimeoutError, 504, "worker_timeout"),
    (WorkerLostError, 503, "worker_lost"),
    (PrebleError, 500, "engine_error"),
)
"""The first that fits counts."""
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_WAIT = 1.0
"""Seconds after which an overloaded cluster may be asked again, if it does not say."""


def failure(error: PrebleError | HttpError) -> Failure:
    """Return what an error is over HTTP."""
    if isinstance(error, HttpError):
        return Failure(error.status, error.code, str(error), error.param, headers=error.headers)
    status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
    param = error.field if isinstance(error, InvalidRequestError) else None
    wait = (error.retry_after or _WAIT) if status == 429 else None
    return Failure(status, code, str(error), param, wait)


def error_body(failure: Failure, request_id: str | None = None) -> dict[str, Any]:
    """Return the body as OpenAI's clients read it."""
    kind = _KINDS.get(failure.status) or ("invalid_request_error" if failure.status < 500 else "server_error")
    error = {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}
    return {"error": error} if request_id is None else {"error": error, "request_id": request_id}


def encoded(failure: Failure) -> bytes:
    """Return the body as bytes."""
    return msgspec.json.encode(error_body(failure))


def headers(failure: Failure) -> dict[str, str]:
    """Return the headers. Clients try again only where a limit was reached: all else was tried again already."""
    if failure.retry_after is None:
        return {"x-should-retry": "false", **failure.headers}
    milliseconds = math.ceil(failure.retry_after * 1000)
    return {
        "x-should-retry": "true",
        "retry-after-ms": str(milliseconds),
        "retry-after": str(math.ceil(failure.retry_after)),
        **failure.headers,
    }


def renamed(error: InvalidRequestError, names: Mapping[str, str]) -> InvalidRequestError:
    """Return the error with its field named as the protocol names it."""
    name = names.get(error.field)
    if name is None:
        return error
    message = str(error).removeprefix(f"{error.field}: ")
    return type(error)(message, field=name, request_id=error.request_id)
