"""The tokens of a model by their text, as its tokenizer.json or GGUF file lists them; no tokenizer is built."""

from __future__ import annotations

from pathlib import Path

import msgspec

from preble.errors import ModelError
from preble.model_files.gguf import read_gguf


class Vocabulary(msgspec.Struct, frozen=True):
    """`pieces` are the tokens that text is made of and their ids, without special ones. There are `size` ids in all."""

    pieces: dict[str, int]
    size: int


class _Added(msgspec.Struct):
    id: int
    content: str


class _Merging(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _File(msgspec.Struct):
    model: _Merging
    added_tokens: list[_Added] = []


def read_vocabulary(model: Path) -> Vocabulary | None:
    """Return the vocabulary of a folder or a GGUF file, None if the folder has no tokenizer.json.

    Raises ModelError if the file is malformed.
    """
    if model.is_file():
        return _of_gguf(model)
    path = model / "tokenizer.json"
    return _of_json(path) if path.is_file() else None


def _of_json(path: Path) -> Vocabulary:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}") from None
    listed = file.model.vocab
    pieces = dict(listed) if isinstance(listed, dict) else {piece: id for id, (piece, _) in enumerate(listed)}
    special = {token.content: token.id for token in file.added_tokens}
    size = 1 + max([*pieces.values(), *special.values()], default=-1)
    return Vocabulary({piece: id for piece, id in pieces.items() if piece not in special}, size)


def _of_gguf(path: Path) -> Vocabulary:
    tokens = read_gguf(path).require("tokenizer.ggml.tokens", list)
    return Vocabulary({token: id for id, token in enumerate(tokens) if isinstance(token, str)}, len(tokens))
