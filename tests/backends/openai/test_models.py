"""`/v1/models` in the forms that servers give it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from preble.backends.openai.models import ModelCard, chosen, model_cards
from preble.errors import ConfigurationError, EngineError

URL = "http://a"


def cards(document: Any) -> list[ModelCard]:
    return model_cards(document if isinstance(document, bytes) else msgspec.json.encode(document), URL)


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "vllm"}]}, ["m"]),
        ({"data": [{"id": "org/name/m:latest", "owned_by": None, "permission": []}]}, ["org/name/m:latest"]),
        ({"models": [{"name": "m", "model": "m:1", "details": {}}], "data": [{"id": "m:1"}]}, ["m:1"]),
        ({"models": [{"name": "m"}]}, ["m"]),
        ({"data": None, "models": [{"model": "m"}]}, ["m"]),
        ([{"id": "m"}, {"id": "n"}], ["m", "n"]),
        (["m", "n"], ["m", "n"]),
        ({"data": [None, 3, {"id": None}, {"id": 7}, {}, {"id": "m"}]}, ["m"]),
        ({"data": []}, []),
    ],
)
def test_every_form_of_list_is_read(document: Any, names: list[str]):
    assert [card.id for card in cards(document)] == names


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ({"object": "list"}, "object"),
        ({"data": None}, "data"),
        ({"data": {"id": "m"}}, "data"),
        ({"error": {"message": "loading"}}, r"/v1/models is no list of models: loading$"),
        (b"<html><title>Sign in</title></html>", r"http://a/v1/models is no list of models: Sign in$"),
        (b"", "no explanation"),
    ],
)
def test_what_is_no_list_is_shown(document: Any, match: str):
    with pytest.raises(ConfigurationError, match=match):
        cards(document)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_model_len": None}, None),
        ({"max_model_len": 4096}, 4096),
        ({"max_model_len": 4096.0}, 4096),
        ({"max_model_len": "4096"}, 4096),
        ({"context_length": 4096}, 4096),
        ({"max_model_len": None, "context_window": 4096}, 4096),
        ({"loaded_context_length": 4096, "max_context_length": 131_072}, 4096),
        ({"meta": {"n_ctx_train": 131_072, "n_ctx": 4096}}, 4096),
        ({"meta": {"n_ctx_train": 131_072}}, None),
        ({"meta": None}, None),
    ],
)
def test_the_context_has_many_names(fields: dict[str, Any], limit: int | None):
    (card,) = cards({"data": [{"id": "m"} | fields]})
    assert card.context_limit == limit


@pytest.mark.parametrize("size", [-5, 0, "-5", "a lot", 4096.5, True, [4096], {}, 1e300, 10**30])
def test_a_context_that_is_no_size_is_shown(size: Any):
    (card,) = cards({"data": [{"id": "m", "max_model_len": size}]})
    with pytest.raises(EngineError, match="context of 'm' is"):
        assert card.context_limit


def test_an_owner_may_be_nobody():
    assert [card.owned_by for card in cards({"data": [{"id": "m"}, {"id": "n", "owned_by": None}]})] == ["", ""]


def test_an_adapter_is_chosen_by_name_only():
    listed = cards({"data": [{"id": "sql", "parent": "m", "root": "/sql"}, {"id": "m", "parent": None}, {"id": "n"}]})
    assert chosen(listed, None, URL).id == "m"
    assert chosen(listed, "sql", URL).id == "sql"
    with pytest.raises(ConfigurationError, match=r"^served_model: http://a has no 'x', it has: sql, m, n$"):
        chosen(listed, "x", URL)
    with pytest.raises(ConfigurationError, match="lists no model"):
        chosen([], None, URL)
