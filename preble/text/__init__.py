"""From text to token ids and back: a model's tokenizer and chat template, and stop strings.

The cluster imports it, since engines know token ids only; it imports nothing of scheduling or engines. Importing it is
cheap, because `tokenizers` and `jinja2` are imported with the first model.
"""

from __future__ import annotations

from preble.text.chat import ChatTemplate
from preble.text.chat_tokenizer import ChatTokenizer
from preble.text.detokenizer import SEARCHED_TOKENS, Detokenizer
from preble.text.stops import StopStrings
from preble.text.tokenizer import MAX_CHARACTERS, Tokenizer
from preble.text.transcript import Transcript

__all__ = [
    "MAX_CHARACTERS",
    "SEARCHED_TOKENS",
    "ChatTemplate",
    "ChatTokenizer",
    "Detokenizer",
    "StopStrings",
    "Tokenizer",
    "Transcript",
]
