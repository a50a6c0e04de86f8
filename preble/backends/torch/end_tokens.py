"""The token ids that end a text: a model's files name them in four places."""

from __future__ import annotations

from pathlib import Path

import msgspec

from preble.backends.torch.json_file import decode


class _GenerationFile(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


class _Token(msgspec.Struct):
    content: str
    id: int = -1


class _TokenizerConfig(msgspec.Struct):
    eos_token: str | _Token | None = None
    added_tokens_decoder: dict[int, _Token] = {}


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_Token] = []
    model: msgspec.Raw = msgspec.Raw(b"{}")


class _Vocabulary(msgspec.Struct):
    vocab: dict[str, int] = {}


def end_token_ids(folder: Path, configured: int | list[int] | None) -> tuple[int, ...]:
    """Return the ids of `generation_config.json`, or else those `configured` in `config.json`, and the tokenizer's own.

    The tokenizer's `eos_token` ends a chat model's turn, though the configuration of some names only the end of a
    document. Raises ModelError for malformed files.
    """
    path = folder / "generation_config.json"
    ids = decode(path, _GenerationFile).eos_token_id if path.is_file() else None
    ids = configured if ids is None else ids
    found = ids if isinstance(ids, list) else [] if ids is None else [ids]
    own = _tokenizer_end(folder)
    return tuple(found) if own is None or own in found else (*found, own)


def _tokenizer_end(folder: Path) -> int | None:
    names = ("tokenizer_config.json", "special_tokens_map.json")
    configs = [decode(folder / name, _TokenizerConfig) for name in names if (folder / name).is_file()]
    end = next((config.eos_token for config in configs if config.eos_token is not None), None)
    if end is None:
        return None
    text = end if isinstance(end, str) else end.content
    listed = {token.content: id for config in configs for id, token in config.added_tokens_decoder.items()}
    return listed.get(text) if text in listed else _id_of(folder / "tokenizer.json", text)


def _id_of(path: Path, text: str) -> int | None:
    if not path.is_file():
        return None
    file = decode(path, _TokenizerFile)
    added = next((token.id for token in file.added_tokens if token.content == text), None)
    if added is not None:
        return added
    try:
        return msgspec.json.decode(file.model, type=_Vocabulary).vocab.get(text)
    except msgspec.DecodeError:  # the vocabulary of a Unigram model is a list, whose end token is an added one
        return None
