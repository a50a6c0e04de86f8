"""Tokenizers of folders without a tokenizer.json: those of SentencePiece and older ones, converted by transformers."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from preble.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

_CONVERTED = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_REFUSED = ("*.tiktoken", "tekken.json")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_MODULES = {"transformers": "transformers", "sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
"""What pip installs for a conversion, and how it is imported."""


def convert_tokenizer(folder: Path) -> tokenizers.Tokenizer | None:
    """Return the tokenizer of a folder without a tokenizer.json, None if it has none at all.

    It takes seconds, and a save_pretrained of transformers makes it unnecessary. Raises ModelError for a kind that is
    not converted, which it names, and where the packages for it are not installed.
    """
    for pattern in _REFUSED:
        if (found := next(folder.glob(pattern), None)) is not None:
            raise _refusal(found)
    path = next((folder / name for name in _CONVERTED if (folder / name).is_file()), None)
    if path is None:
        return None
    if _is_tiktoken(path):
        raise _refusal(path)
    return _converted(path)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def _is_tiktoken(path: Path) -> bool:
    with path.open("rb") as file:
        return _TIKTOKEN_LINE.match(file.read(1000)) is not None


def _refusal(path: Path) -> ModelError:
    kind = "a tokenizer of mistral-common" if path.name == "tekken.json" else "a tiktoken vocabulary"
    return ModelError(f"{path}: {kind}, which is not served: the folder needs a tokenizer.json")


def _converted(path: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    needed = _MODULES if path.suffix == ".model" else ("transformers",)
    if missing := [package for package in needed if not _installed(_MODULES[package])]:
        raise ModelError(f"{path}: no tokenizer.json beside it; to convert it, pip install {' '.join(missing)}")
    from transformers import AutoTokenizer

    try:
        slow_or_fast = AutoTokenizer.from_pretrained(str(path.parent), local_files_only=True)
    except Exception as error:  # transformers raises whatever happens
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{path}: transformers does not convert it: {lines[0]}") from None
    rust = getattr(slow_or_fast, "backend_tokenizer", None)
    if rust is None:
        raise ModelError(f"{path}: transformers has no fast tokenizer for it: the folder needs a tokenizer.json")
    return Tokenizer.from_str(rust.to_str())
