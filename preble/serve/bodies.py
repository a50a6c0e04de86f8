"""From the bytes of a request to its fields; whatever is wrong is named by its path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from preble.errors import InvalidRequestError, nearest
from preble.serve.errors import HttpError

_Body = TypeVar("_Body")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`")
_MISSING = re.compile(r"Object missing required field `(.+?)`")


def fields(raw: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object. Raises InvalidRequestError; its field is then `body`."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.ValidationError:
        raise InvalidRequestError("must be a JSON object", field="body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"is not JSON: {error}", field="body") from None


def read(given: dict[str, Any], kind: type[_Body], also: Iterable[str] = ()) -> _Body:
    """Return the body of this kind. Raises InvalidRequestError, which names the field by its path.

    A field that does not exist is an HttpError, which names the nearest one: of the kind, or of those that are known
    `also`.
    """
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        path = where.rstrip("`").lstrip(".")
        if missing := _MISSING.search(what):
            raise InvalidRequestError("is required", field=_joined(path, missing[1])) from None
        if unknown := _UNKNOWN.search(what):
            names = () if path else (*getattr(kind, "__struct_fields__", ()), *also)
            hint = nearest(unknown[1], names) if names else ""
            raise _unknown(_joined(path, unknown[1]), hint) from None
        raise InvalidRequestError(what, field=path or "body") from None
    except RecursionError:
        raise InvalidRequestError("is nested too deeply", field="body") from None


def _unknown(field: str, hint: str) -> HttpError:
    # Not an InvalidRequestError: a field of that name may be one of the cluster's, which are renamed.
    return HttpError(400, f"{field}: unknown field{hint}", code="invalid_value", param=field)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
