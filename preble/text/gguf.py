"""The tokenizer and the chat template of a GGUF file, as a Hugging Face folder of the same model has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from preble.errors import ModelError
from preble.model_files.gguf import GgufFile, read_gguf

if TYPE_CHECKING:
    import tokenizers

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASELESS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_SPLITS: Mapping[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _WORDS, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt-2": (_WORDS,),
    "llama-bpe": (_CASELESS.replace("DIGITS", "{1,3}"),),
    "qwen2": (_CASELESS.replace("DIGITS", ""),),
    "smollm": (r"\p{N}", _WORDS),
}
"""Values of `tokenizer.ggml.pre`, and how each cuts a text before merging: by one expression after the other."""


def build_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Build the byte-level BPE tokenizer of a GGUF file. Raises ModelError naming the key that is wrong."""
    from tokenizers import Tokenizer, decoders

    file = read_gguf(path)
    kind, pre = file.require(f"{_PREFIX}model", str), file.get(f"{_PREFIX}pre", str) or "default"
    if kind != "gpt2":
        raise ModelError(f"{path}: tokenizer model {kind!r} is not served, only gpt2: byte-level BPE")
    if pre not in _SPLITS:
        raise ModelError(f"{path}: pre-tokenizer {pre!r} is none of {', '.join(_SPLITS)}")
    tokenizer = Tokenizer(_merging(file, ignore_merges=pre == "llama-bpe"))
    _prepare(tokenizer, pre)
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, file)
    _add_ends(tokenizer, file, begins=pre == "llama-bpe")
    return tokenizer


def chat_templates(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the chat templates of a GGUF file by name, "default" for the one without, and its special tokens."""
    file = read_gguf(path)
    names = {"default": "tokenizer.chat_template"}
    names |= {name: f"tokenizer.chat_template.{name}" for name in file.get("tokenizer.chat_templates", list) or ()}
    sources = {name: file.get(key, str) for name, key in names.items()}
    special = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return _known(sources), _known({name: _token(file, key) for name, key in special.items()})


def _known(texts: dict[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text is not None}


def _tokens(file: GgufFile) -> list[str]:
    return _texts(file, "tokens")


def _texts(file: GgufFile, name: str) -> list[str]:
    found = file.require(_PREFIX + name, list)
    if not all(isinstance(each, str) for each in found):
        raise ModelError(f"{file.path}: {_PREFIX}{name} is no list of texts")
    return found


def _token(file: GgufFile, name: str) -> str | None:
    """Return the text of the token that the file names as its `bos`, `eos` or the like."""
    id, tokens = file.get(f"{_PREFIX}{name}_token_id", int), _texts(file, "tokens")
    return tokens[id] if id is not None and 0 <= id < len(tokens) else None


def _merging(file: GgufFile, *, ignore_merges: bool) -> tokenizers.models.BPE:
    from tokenizers import models

    vocabulary = {token: id for id, token in enumerate(_tokens(file))}
    pairs = (merge.partition(" ") for merge in _texts(file, "merges"))
    try:
        return models.BPE(vocabulary, [(left, right) for left, _, right in pairs], ignore_merges=ignore_merges)
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{file.path}: {_PREFIX}merges: {error}") from None


def _prepare(tokenizer: tokenizers.Tokenizer, pre: str) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in _SPLITS[pre]]
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, in_bytes])
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()  # of the models themselves; the format does not say it


def _add_tokens(tokenizer: tokenizers.Tokenizer, file: GgufFile) -> None:
    """Let control tokens, and those that the model's maker added, be found whole in a text."""
    from tokenizers import AddedToken

    kinds = file.get(f"{_PREFIX}token_type", list) or ()
    for token, kind in zip(_tokens(file), kinds, strict=False):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])


def _add_ends(tokenizer: tokenizers.Tokenizer, file: GgufFile, *, begins: bool) -> None:
    """Put the begin or end token around a text, where the file says so; `begins` is what holds if it does not."""
    from tokenizers.processors import TemplateProcessing

    said = file.get(f"{_PREFIX}add_bos_token", bool)
    begin = [_token(file, "bos")] if (begins if said is None else said) else []
    end = [_token(file, "eos")] if file.get(f"{_PREFIX}add_eos_token", bool) else []
    around = [token for token in (*begin, *end) if token is not None]
    if around:
        ids = [(token, tokenizer.token_to_id(token)) for token in around]
        single = [token for token in (*begin, "$A", *end) if token is not None]
        tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
