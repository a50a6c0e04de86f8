"""The text of engines without a model: a token for each byte, made-up words for other ids, and a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from preble.text.chat import ChatTemplate
from preble.text.tokenizer import Tokenizer

SPECIAL = ("<pad>", "<s>", "</s>")
"""Ids 0 to 2, as the `sim` engine has them: padding, beginning and end. The 256 bytes follow, then words."""
SMALLEST = len(SPECIAL) + 256
"""The ids that a vocabulary must have to be of text."""

TEMPLATE = """\
{%- if tools %}
{{- '<s>system\\nCall a function like this: <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}
{{- '\\n</tools></s>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<s>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{%- set call = call.function or call %}
{{- '<tool_call>\\n' + {'name': call.name, 'arguments': call.arguments} | tojson + '\\n</tool_call>' }}
{%- endfor %}
{{- '</s>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"""
"""Tools are shown, and calls written, as Hermes and Qwen models do."""

_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aeiou"


@lru_cache(maxsize=4)
def plain_tokenizer(size: int) -> Tokenizer:
    """Return a tokenizer of `size` ids, at least `SMALLEST`: any text comes back as it was, words as one token each."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *bytes_, *(f"Ġ{word}" for word in _words(size - SMALLEST))]
    rust = RustTokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, [], ignore_merges=True))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return Tokenizer(rust)


@lru_cache(maxsize=1)
def plain_template() -> ChatTemplate:
    """Return the chat template."""
    return ChatTemplate({"default": TEMPLATE}, {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2]})


def _words(count: int) -> Iterator[str]:
    """Yield different words of two syllables, then of three and more."""
    syllables = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    words = syllables
    while count > 0:
        words = list(islice((first + last for first in words for last in syllables), count))
        yield from words
        count -= len(words)
