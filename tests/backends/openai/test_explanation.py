"""What servers say of an error comes out in their own words, once, whatever form they give it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from preble.backends.openai.explanation import LONGEST, Explanation, explained, explanation

WHY = "the prompt is not to my liking"

FORMS: dict[str, tuple[Any, int | None]] = {
    "OpenAI": ({"error": {"message": WHY, "type": "invalid_request_error", "param": None, "code": None}}, 400),
    "OpenAI, a word as code": ({"error": {"message": WHY, "type": "x", "code": "rate_limit_exceeded"}}, 429),
    "vLLM": ({"error": {"message": WHY, "type": "BadRequestError", "param": None, "code": 400}}, 400),
    "vLLM, older": ({"object": "error", "message": WHY, "type": "BadRequestError", "param": None, "code": 400}, 400),
    "SGLang": ({"error": {"message": WHY}}, None),
    "llama.cpp": ({"error": {"code": 503, "message": WHY, "type": "unavailable_error"}}, 503),
    "TGI": ({"error": WHY, "error_type": "validation"}, 422),
    "TGI, overloaded": ({"error": WHY, "error_type": "overloaded"}, 429),
    "Ollama": ({"error": {"message": WHY, "type": "api_error", "param": None, "code": None}}, None),
    "Ollama's own API": ({"error": WHY}, None),
    "LiteLLM": ({"error": {"message": WHY, "type": "None", "param": "None", "code": "429"}}, 429),
    "FastAPI": ({"detail": WHY}, None),
    "FastAPI, a list": ({"detail": [{"type": "missing", "loc": ["body", "prompt"], "msg": WHY, "input": {}}]}, None),
    "a gateway": ({"code": 400, "details": WHY}, 400),
    "Triton": ({"error": {"message": None, "details": WHY}}, None),
    "problem details": ({"title": WHY, "status": 404}, 404),
    "text": (WHY, None),
    "said twice": ({"error": {"message": WHY, "detail": WHY}, "message": WHY}, None),
    "a list of errors": ({"errors": [{"message": WHY, "code": 500}]}, None),
    "digits that are no status": ({"error": {"message": WHY, "code": "40012"}}, None),
    "a truth as code": ({"error": {"message": WHY, "code": True}}, None),
}


@pytest.mark.parametrize("form", FORMS)
def test_words_and_kind_are_found_in_every_form(form: str):
    document, status = FORMS[form]
    said = explanation(msgspec.json.encode(document))
    assert said.text == (f"body.prompt: {WHY}" if form == "FastAPI, a list" else WHY)
    assert said.status == status
    assert explained(document) == said


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>",
         "502 Bad Gateway"),
        ("<!DOCTYPE html><style>h1 {x: y}</style><h1>Down</h1>\n<p>for <b>now</b></p>", "Down for now"),
        ("<html></html>", "<html></html>"),
        ("<script" * 100_000, ("<script" * 1000)[:LONGEST]),
        ("  upstream connect error  ", "upstream connect error"),
        ('data: {"error": {"message": "too late"}}\n\n', "too late"),
        ('{"answer": 7}', '{"answer": 7}'),
        ('{"error": {}, "x": 1}', '{"error": {}, "x": 1}'),
        ("", "no explanation"),
        ("[" * 100_000, "[" * LONGEST),
    ],
)  # fmt: skip
def test_bodies_of_no_known_form_are_shown_as_text(page: str, text: str):
    assert explanation(page.encode()) == Explanation(text)


def test_bytes_that_are_no_text_are_shown_as_far_as_they_are():
    assert "why" in explanation(b"\xff why").text


@pytest.mark.parametrize(
    "document",
    [None, 3, [], {}, {"error": None}, {"error": ""}, {"message": {"content": "x"}}, {"id": "x", "usage": 1}],
)
def test_what_says_nothing_of_an_error_is_none(document: Any):
    assert explained(document) is None


def test_a_long_story_is_cut():
    assert len(explanation(b"x" * 100_000).text) == LONGEST
    nested: Any = WHY
    for _ in range(100):
        nested = {"error": nested}
    assert explained(nested) is None, "nobody looks that deep"
