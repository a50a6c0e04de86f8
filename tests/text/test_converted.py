"""Tokenizers of folders without a tokenizer.json. Those of SentencePiece are converted in `tests/engines`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from preble.errors import ModelError
from preble.testing import make_model
from preble.text import Tokenizer, converted

TEXT = "def hello(self):\n    return  'é 😀 '"


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("fast"), hidden=16, layers=1, heads=1, kv_heads=1, vocab=400)


def test_the_files_of_gpt2_are_converted(fast: Path, tmp_path: Path):
    wanted = tokenizers.Tokenizer.from_file(str(fast / "tokenizer.json"))
    wanted.model.save(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "unk_token": "<|unknown|>"}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer is not None
    ids = tokenizer.encode(TEXT)
    assert ids == wanted.encode(TEXT).ids
    assert tokenizer.decode(ids) == TEXT


@pytest.mark.parametrize("missing", [("transformers",), ("sentencepiece", "protobuf")])
def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]):
    modules = {converted._MODULES[package] for package in missing}
    monkeypatch.setattr(converted, "_installed", lambda module: module not in modules)
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0b\n")
    with pytest.raises(ModelError, match=rf"tokenizer\.model: .* pip install {' '.join(missing)}$"):
        Tokenizer.load(tmp_path)


def test_what_is_installed_is_known():
    assert converted._installed("json")
    assert not converted._installed("no_such_package")
    assert not converted._installed("no_such_package.inside")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.model", b"IQ== 0\nIg== 1\n"),
        ("qwen.tiktoken", b"IQ== 0\n"),
        ("tekken.json", b"{}"),
    ],
)
def test_kinds_that_nothing_converts_are_refused_by_name(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name}: a .*, which is not served: the folder needs a tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_what_transformers_refuses_is_told_in_its_words(tmp_path: Path):
    (tmp_path / "vocab.json").write_text("[]")
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(ModelError, match=r"vocab\.json: transformers does not convert it: \w+"):
        Tokenizer.load(tmp_path)
