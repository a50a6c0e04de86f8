from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer

import preble
from preble.testing import make_model
from preble.text import Tokenizer

BYTE_LEVEL_IDS = 1003
SENTENCE_PIECE_IDS = 900
"""Sizes of the vocabularies of the fixtures below."""


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), layers=1, vocab=1000)


@pytest.fixture(scope="session")
def byte_level(model_path) -> Tokenizer:
    """Byte-level, with added tokens that are not spelled in the byte alphabet, as Qwen's and Llama 3's."""
    rust = RustTokenizer.from_file(str(model_path / "tokenizer.json"))
    rust.add_tokens([AddedToken("<tool 🙂 call>"), AddedToken("déjà")])
    rust.add_special_tokens([AddedToken("<|fin 終|>", special=True)])
    assert rust.get_vocab_size() == BYTE_LEVEL_IDS
    return Tokenizer(rust)


@pytest.fixture(scope="session")
def sentence_piece(rust_sentence_piece: RustTokenizer) -> Tokenizer:
    return Tokenizer(rust_sentence_piece)


@pytest.fixture(scope="session")
def rust_sentence_piece() -> RustTokenizer:
    """The shape of Llama 2's and Mistral's: a space in front that is not text, unknown characters as byte ids."""
    source = Path(preble.__file__).parent / "errors.py"
    unknown = "<unk>"
    rust = RustTokenizer(models.BPE(byte_fallback=True, unk_token=unknown))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [unknown, "<s>", "</s>"]
    # Byte ids are ordinary tokens of these models; the trainer has no other way to be told of them.
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special + alphabet, show_progress=False)
    rust.train_from_iterator([source.read_text(encoding="utf-8")], trainer)
    assert rust.get_vocab_size() == SENTENCE_PIECE_IDS
    document = json.loads(rust.to_str())
    document["added_tokens"] = [entry for entry in document["added_tokens"] if entry["content"] in special]
    return RustTokenizer.from_str(json.dumps(document))
