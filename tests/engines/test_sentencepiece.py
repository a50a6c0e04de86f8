"""A tokenizer.model without a tokenizer.json; the packages that convert it are in the environment of the engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import preble
from preble.text import Tokenizer

TEXTS = ["def hello(self):", "return preble", "'é 😀 ' -> str"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Llama's kind, with a vocabulary of the sources of this package."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    path = tmp_path_factory.mktemp("sentencepiece")
    lines = [line for source in Path(preble.__file__).parent.rglob("*.py") for line in source.read_text().splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for line in lines if line.strip()),
        model_prefix=str(path / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    config: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"unk_token": "<unk>", "add_bos_token": True}))
    (path / "config.json").write_text('{"model_type": "llama"}')
    return path


def test_a_converted_tokenizer_has_the_ids_of_sentencepiece(folder: Path) -> None:
    import sentencepiece

    original = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer is not None
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == [original.bos_id(), *original.encode(text)]
        assert tokenizer.decode(ids) == text
    assert tokenizer.is_special(original.eos_id())
