"""What the `sim` engine makes its texts of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preble.backends.invented import DEFAULT_SIZE, END_TOKEN, FIRST_TOKEN, words_of
from preble.backends.sim import SimEngine
from preble.errors import ModelError
from preble.testing import make_model
from preble.text import Tokenizer

BPE = {"<s>": 0, "</s>": 1, "Ġword": 2, "Ġother": 3, "ĠUP": 4, "x": 5, "Ġa": 6}
ADDED = [{"id": 0, "content": "<s>"}, {"id": 1, "content": "</s>"}, {"id": 9, "content": "<|more|>"}]


def folder(path: Path, vocab: Any, end: str | None = "</s>") -> str:
    path.joinpath("tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": ADDED}))
    path.joinpath("tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
    return str(path)


@pytest.mark.parametrize("kind", [dict, list], ids=["BPE", "Unigram"])
def test_words_are_lower_case_with_a_space(tmp_path: Path, kind: type):
    vocab = BPE if kind is dict else [[piece.replace("Ġ", "▁"), -1.0] for piece in BPE]
    words = words_of(folder(tmp_path, vocab), None)
    assert (list(words.ids), words.end, words.size) == ([2, 3], 1, 10)


def test_without_such_words_all_that_is_not_special_is_taken(tmp_path: Path):
    words = words_of(folder(tmp_path, {"<s>": 0, "</s>": 1, "X": 2, "ĠY": 3}, end=None), None)
    assert (list(words.ids), words.end) == ([2, 3], None)


def test_a_size_that_is_given_bounds_the_words(tmp_path: Path):
    words = words_of(folder(tmp_path, BPE), 3)
    assert (list(words.ids), words.size) == ([2], 3)


@pytest.mark.parametrize("model", [None, "just-a-name"])
def test_without_a_model_words_are_numbers(model: str | None, tmp_path: Path):
    for name, size in ((model, None), (str(tmp_path), None), (model, 500)):
        words = words_of(name, size)
        assert words.ids == range(FIRST_TOKEN, size or DEFAULT_SIZE)
        assert (words.end, words.size) == (END_TOKEN, size or DEFAULT_SIZE)


def test_a_malformed_tokenizer_is_named(tmp_path: Path):
    tmp_path.joinpath("tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        words_of(str(tmp_path), None)


async def test_the_engine_tells_the_sizes_of_its_model(tmp_path: Path):
    engine = SimEngine(model=str(make_model(tmp_path, vocab=300)))
    info = await engine.start()
    await engine.close()
    assert (info.vocab_size, info.eos_token_ids) == (300, (2,))


def test_every_word_of_a_model_is_text(tmp_path: Path):
    words, tokenizer = words_of(str(make_model(tmp_path)), None), Tokenizer.load(tmp_path)
    assert tokenizer is not None
    assert len(words.ids) > 500
    assert all(tokenizer.decode([id])[1:].isalpha() for id in words.ids)
