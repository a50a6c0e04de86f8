"""Error bodies as Anthropic's clients read them."""

from __future__ import annotations

from typing import Any

from preble.serve.errors import Failure

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(failure: Failure, request_id: str | None = None) -> dict[str, Any]:
    """Return the body. Its type says what the HTTP status says; `code` and `param` are ours."""
    kind = _TYPES.get(failure.status) or ("invalid_request_error" if failure.status < 500 else "api_error")
    error = {"type": kind, "message": failure.message, "code": failure.code, "param": failure.param}
    return {"type": "error", "error": error, "request_id": request_id}
