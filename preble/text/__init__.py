"""Text in and out of token ids: a model's tokenizer, its chat template, stop strings.

Importing this costs little: `tokenizers` and `jinja2` are loaded with the first model.
"""

from __future__ import annotations

from preble.text.chat import ChatTemplate
from preble.text.detokenizer import Detokenizer
from preble.text.stops import StopStrings
from preble.text.tokenizer import MAX_CHARACTERS, Tokenizer
from preble.text.transcript import Transcript

__all__ = ["MAX_CHARACTERS", "ChatTemplate", "Detokenizer", "StopStrings", "Tokenizer", "Transcript"]
