"""What a server says of an error, and of which kind it calls it, in any of the forms that servers use.

A few of them: `{"error": {"message": ..., "code": 400}}` of the OpenAI API, `{"object": "error", "message": ...}` of
older vLLM, `{"error": "...", "error_type": "validation"}` of TGI, `{"detail": [{"loc": [...], "msg": ...}]}` of
FastAPI, and the pages of proxies in HTML.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

LONGEST = 1000
"""Most characters that are kept of what a server says."""

_WORDS = ("error", "message", "detail", "details", "msg", "errors", "error_message", "reason", "title")
_KINDS = ("code", "status", "status_code", "type", "error_type")
_STATUS = {
    "context_length_exceeded": 400, "exceed_context_size_error": 400, "badrequesterror": 400, "badrequest": 400,
    "invalid_request_error": 400, "contextwindowexceedederror": 400, "validation": 422, "validationerror": 422,
    "authentication_error": 401, "authenticationerror": 401, "invalid_api_key": 401, "permission_error": 403,
    "not_found_error": 404, "notfounderror": 404, "model_not_found": 404,
    "rate_limit_exceeded": 429, "rate_limit_error": 429, "ratelimiterror": 429, "overloaded": 429,
    "overloaded_error": 503, "serviceunavailableerror": 503, "unavailable_error": 503,
}  # fmt: skip
_DEPTH = 4
_ENTRIES = 5
_PAGE = 4096  # characters of a page that are looked at
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


class Explanation(msgspec.Struct, frozen=True):
    """`text` is what the server says, cut to `LONGEST` characters.

    `status` is the HTTP status that it names there, as a number or by a well-known word, and `kind` its words for that.
    """

    text: str
    status: int | None = None
    kind: str = ""


def explanation(body: bytes) -> Explanation:
    """Return what the body of an error says. It is the body itself if that has no known form."""
    raw = body.removeprefix(b"data:")
    parsed = parsed_json(raw)
    found = explained(parsed) if parsed is not None else None
    return found or Explanation(_cut(_plain(raw.decode(errors="replace"))) or "no explanation")


def explained(parsed: Any, *, otherwise: str = "") -> Explanation | None:
    """Return what a JSON document says of an error, or else `otherwise`; None if it says nothing of one."""
    text = _words(parsed, _DEPTH) or otherwise
    if not text:
        return None
    kinds = _kinds(parsed)
    status = next(filter(None, map(_status, kinds)), None)
    return Explanation(_cut(text), status, _cut(" ".join(each for each in kinds if isinstance(each, str))))


def parsed_json(body: bytes) -> Any:
    """Return a JSON document as plain values; None if it is none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _words(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_words(each, depth - 1) for each in value[:_ENTRIES])))
    if isinstance(value, dict) and depth:
        return _place(value) + text if (text := _first_words(value, depth - 1)) else ""
    return ""


def _first_words(value: dict[str, Any], depth: int) -> str:
    return next(filter(None, (_words(value.get(name), depth) for name in _WORDS)), "")


def _place(entry: dict[str, Any]) -> str:
    """Where FastAPI found something wrong, such as "body.prompt: "."""
    place = entry.get("loc")
    return ".".join(map(str, place[:_ENTRIES])) + ": " if isinstance(place, list) and place else ""


def _kinds(value: Any) -> list[Any]:
    """How an error is called, from the inside out."""
    levels = (value.get("error"), value) if isinstance(value, dict) else ()
    return [each[name] for each in levels if isinstance(each, dict) for name in _KINDS if each.get(name)]


def _status(named: Any) -> int | None:
    if isinstance(named, str):
        named = int(named) if re.fullmatch(r"[45]\d\d", named) else _STATUS.get(named.lower())
    return named if isinstance(named, int) and 400 <= named < 600 else None


def _plain(text: str) -> str:
    """The text of a page in HTML, which is its title if it has one; other text as it is."""
    text = text.strip()
    if not text.startswith("<"):
        return text
    text = text[:_PAGE]
    title = _TITLE.search(text)
    return " ".join(_TAGS.sub(" ", title[1] if title else text).split()) or text


def _cut(text: str) -> str:
    return text.strip()[:LONGEST]
