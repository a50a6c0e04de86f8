"""Small tokenizers of the shapes that models have, each with a chat template of the shape that goes with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Rust

import preble
from preble.text import ChatTemplate, Tokenizer

_MARK = "▁"
_WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
UNKNOWN = "<unk>"
SPECIAL = [UNKNOWN, "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|end|>"]

CHAT_ML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|user|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant<|end|>\n\n' }}{% endif %}"
)
INSTRUCTION = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
BARE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
ROLES = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TIGHT = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PARTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _trained(rust: Rust, trainer: trainers.Trainer) -> Rust:
    corpus = [(Path(preble.__file__).parent / name).read_text(encoding="utf-8") for name in ("errors.py", "tokens.py")]
    rust.train_from_iterator([*corpus, "Straße, été, 漢字 and 🙂👩‍👧 " * 3], trainer)
    return rust


def _bytes(*, prefix: bool = False, split: bool = False, ignore_merges: bool = False) -> Rust:
    """Byte-level: GPT-2, Qwen, Llama 3, DeepSeek."""
    rust = Rust(models.BPE(ignore_merges=ignore_merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not split)
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    rust.pre_tokenizer = pre_tokenizers.Sequence([words, level]) if split else level
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(rust, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet))


def _pieces(*, strip: bool, scheme: str | None = None) -> Rust:
    """SentencePiece with bytes for unknown characters: Llama 2 (no scheme), Mistral, Gemma (no space in front)."""
    rust = Rust(models.BPE(byte_fallback=True, unk_token=UNKNOWN, fuse_unk=True))
    if scheme is None:
        front = [normalizers.Prepend(_MARK)] if strip else []
        rust.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", _MARK)])
        rust.pre_tokenizer = pre_tokenizers.Split(Regex(_MARK), "merged_with_next")
    else:
        rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    steps = [decoders.Replace(_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    rust.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    _trained(rust, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + _BYTES, limit_alphabet=80))
    return _ordinary_bytes(rust)


def _unigram() -> Rust:
    """Unigram with the decoder that goes with Metaspace: T5, XLM-R, and small multilingual models."""
    rust = Rust(models.Unigram())
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    rust.decoder = decoders.Metaspace(prepend_scheme="always")
    return _trained(rust, trainers.UnigramTrainer(vocab_size=500, special_tokens=SPECIAL, unk_token=UNKNOWN))


def _word_pieces() -> Rust:
    """WordPiece, whose decoder writes the spaces."""
    rust = Rust(models.WordPiece(unk_token=UNKNOWN))
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece(cleanup=False)
    return _trained(rust, trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL))


def _ordinary_bytes(rust: Rust) -> Rust:
    document = json.loads(rust.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in SPECIAL]
    return Rust.from_str(json.dumps(document))


def _beginning(rust: Rust) -> Rust:
    rust.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return rust


def _stripping(rust: Rust) -> Rust:
    rust.add_special_tokens([AddedToken("<|turn|>", rstrip=True, lstrip=True, normalized=False)])
    return rust


KINDS: dict[str, tuple[Callable[[], Rust], str]] = {
    "qwen": (lambda: _bytes(split=True), CHAT_ML),
    "gpt-2": (lambda: _bytes(), TIGHT),
    "prefix-space": (lambda: _beginning(_bytes(prefix=True)), ROLES),
    "llama-3": (lambda: _beginning(_bytes(split=True, ignore_merges=True)), HEADERS),
    "llama-2": (lambda: _beginning(_pieces(strip=True)), INSTRUCTION),
    "mistral": (lambda: _beginning(_pieces(strip=True, scheme="first")), INSTRUCTION),
    "tiny-llama": (lambda: _beginning(_pieces(strip=True, scheme="always")), ROLES),
    "phi-3": (lambda: _stripping(_pieces(strip=True)), ROLES),
    "gemma": (lambda: _beginning(_pieces(strip=False)), CHAT_ML),
    "parts": (lambda: _pieces(strip=False, scheme="never"), PARTS),
    "unigram": (_unigram, BARE),
    "word-pieces": (_word_pieces, TIGHT),
}


@cache
def kind(name: str) -> tuple[Tokenizer, ChatTemplate]:
    """Return the tokenizer and the chat template of that kind."""
    make, source = KINDS[name]
    return Tokenizer(make()), ChatTemplate({"default": source}, {"bos_token": "<s>", "eos_token": "</s>"})
