from __future__ import annotations

import pytest

from preble.errors import InvalidRequestError
from preble.serve.response_format import form_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        (None, {}),
        ({"type": "text"}, {}),
        ({"type": "json_object"}, {"json_schema": {"type": "object"}}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, {"json_schema": SCHEMA}),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
            {"json_schema": SCHEMA},
        ),
    ],
)
def test_a_format_is_a_form_of_sampling(given, fields):
    assert form_of(given) == fields


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": []}}, "response_format.json_schema.schema"),
    ],
)
def test_a_wrong_format_is_named(given, field):
    with pytest.raises(InvalidRequestError) as raised:
        form_of(given)
    assert raised.value.field == field
