"""Tokens that only the files beside tokenizer.json name, as of models that were fine-tuned with new ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from preble.errors import ModelError
from preble.text.model_files import named_tokens, read_config

if TYPE_CHECKING:
    import tokenizers

_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_logger = logging.getLogger("preble.text")


class _Token(msgspec.Struct):
    content: str
    lstrip: bool = False
    normalized: bool = False
    rstrip: bool = False
    single_word: bool = False
    special: bool = False


def add_tokens(rust: tokenizers.Tokenizer, folder: Path) -> None:
    """Add them in the order in which transformers does, so that they get the same ids. Raises ModelError."""
    import tokenizers

    config = read_config(folder / "tokenizer_config.json")
    known = {token.content for token in rust.get_added_tokens_decoder().values()}
    for id, token in [*_listed(config, folder), *_special(config)]:
        if token.content in known or not token.content:
            continue
        known.add(token.content)
        fields = {name: getattr(token, name) for name in token.__struct_fields__}
        rust.add_tokens([tokenizers.AddedToken(**fields)])
        if id is not None and (got := rust.token_to_id(token.content)) != id:
            _logger.warning("%s: token %r is %d, not %d as its file says", folder, token.content, got, id)


def _listed(config: dict[str, Any], folder: Path) -> list[tuple[int | None, _Token]]:
    try:
        listed = msgspec.convert(config.get("added_tokens_decoder") or {}, dict[int, _Token], strict=False)
        old = {} if listed else msgspec.convert(read_config(folder / "added_tokens.json"), dict[str, int])
    except msgspec.ValidationError as error:
        raise ModelError(f"{folder}: added tokens are malformed: {error}") from None
    special = {token.content for _, token in _special(config)}
    for text, id in old.items():
        listed[id] = _Token(text, special=text in special, normalized=text not in special)
    return sorted(listed.items())


def _special(config: dict[str, Any]) -> list[tuple[int | None, _Token]]:
    named = named_tokens(config)
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    texts = [named.get(f"{name}_token", "") for name in _NAMED]
    texts += [text for text in extra if isinstance(text, str)] if isinstance(extra, list) else []
    return [(None, _Token(text, special=True)) for text in texts]
