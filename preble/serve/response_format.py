"""`response_format` of chat completions, as the fields of `SamplingParams` that ask for the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from preble.errors import InvalidRequestError
from preble.serve import bodies


class _Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any] = {}
    description: str | None = None
    strict: bool | None = None


class _Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _Body(msgspec.Struct, frozen=True):
    response_format: _Format


def form_of(response_format: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of sampling: none for text, else a JSON schema, which is followed with and without `strict`.

    Raises InvalidRequestError, which names the part that is wrong.
    """
    if response_format is None:
        return {}
    form = bodies.read({"response_format": dict(response_format)}, _Body).response_format
    if form.type == "text":
        return {}
    if form.type == "json_object":
        return {"json_schema": {"type": "object"}}
    if form.json_schema is None:
        raise InvalidRequestError("is required", field="response_format.json_schema")
    return {"json_schema": form.json_schema.schema}
