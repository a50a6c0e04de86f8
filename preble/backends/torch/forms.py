"""Outputs with a form, such as a JSON schema or a grammar: which tokens may come next, by llguidance."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preble.errors import InvalidRequestError
from preble.model_files.byte_level import bytes_of
from preble.model_files.vocabulary import Vocabulary, read_vocabulary
from preble.tokens import TOKEN_BYTES, unpack
from preble.types import SamplingParams, Structure

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT = 64
"""Compiled forms that are kept, the latest used last."""


class Form:
    """One output's place in its form. `error` says why the form could not be followed any further."""

    def __init__(self, matcher: LLMatcher, end: Sequence[int], vocab_size: int) -> None:
        self.error = ""
        self._matcher = matcher
        self._end = list(end)
        self._vocab_size = vocab_size
        self._taken = 0

    def allowed(self, output: bytes) -> np.ndarray[Any, Any]:
        """Return for each token of the vocabulary whether it may follow `output`, packed int32, as booleans.

        `output` begins with what was given before. After an error only the tokens that end the output are left.
        """
        new = unpack(output[self._taken * TOKEN_BYTES :])
        self._taken += len(new)
        if new and not self.error and not self._matcher.is_stopped():
            self._matcher.consume_tokens(list(new))
        packed = b"" if self.error else self._matcher.compute_bitmask()
        self.error = self.error or self._matcher.get_error()
        allowed = np.zeros(self._vocab_size, dtype=bool)
        if self.error:
            allowed[self._end] = True
            return allowed
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")[: self._vocab_size]
        allowed[: len(bits)] = bits
        return allowed


class Forms:
    """Compiles forms for one model in a thread, one at a time, and keeps the latest."""

    def __init__(self, model: Path, end: Sequence[int], vocab_size: int) -> None:
        self._model = model
        self._end = tuple(id for id in end if id < vocab_size)
        self._vocab_size = vocab_size
        self._compiled: OrderedDict[tuple[Structure, Any], LLMatcher] = OrderedDict()
        self._tokenizer: LLTokenizer | None = None
        self._lock = asyncio.Lock()

    async def form(self, sampling: SamplingParams) -> Form:
        """Return the beginning of an output. Raises InvalidRequestError, which names the field, if it is malformed."""
        name = sampling.structure
        assert name is not None
        key = (name, getattr(sampling, name))
        async with self._lock:
            if key not in self._compiled:
                self._compiled[key] = await asyncio.to_thread(self._compile, *key)
                while len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
        return Form(self._compiled[key].deep_copy(), self._end, self._vocab_size)

    def _compile(self, name: Structure, given: Any) -> LLMatcher:
        if importlib.util.find_spec("llguidance") is None:
            raise InvalidRequestError('needs llguidance; pip install "preble[grammar]"', field=name)
        from llguidance import LLMatcher

        if self._tokenizer is None:
            self._tokenizer = self._read(name)
        grammar = _grammar(name, given)
        if error := LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise InvalidRequestError(error, field=name)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if error := matcher.get_error():
            raise InvalidRequestError(error, field=name)
        return matcher

    def _read(self, name: Structure) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        vocabulary = read_vocabulary(self._model)
        if vocabulary is None or not self._end:
            missing = "tokenizer.json" if vocabulary is None else "token that ends a text"
            raise InvalidRequestError(f"the model has no {missing}, which it needs", field=name)
        wrapper = TokenizerWrapper(_Tokens(_token_bytes(vocabulary, self._vocab_size), self._end[0]))
        return LLTokenizer(wrapper, n_vocab=self._vocab_size, eos_token=list(self._end))


class _Tokens:
    """A vocabulary as llguidance reads it. What it asks to have tokenized is no part of an output."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], end: int) -> None:
        self.tokens = tokens
        self.eos_token_id = end
        self.special_token_ids: list[int] = [end]

    def __call__(self, text: bytes | str) -> list[int]:
        """Return a token for each byte, where the vocabulary has them."""
        data = text.encode() if isinstance(text, str) else text
        return [self.tokens.index(bytes([byte])) for byte in data if bytes([byte]) in self.tokens]


def _grammar(name: Structure, given: Any) -> str:
    from llguidance import LLMatcher

    if name == "json_schema":
        return LLMatcher.grammar_from_json_schema(given)
    if name == "regex":
        return LLMatcher.grammar_from_regex(given)
    texts = given if name == "grammar" else "start: " + " | ".join(json.dumps(text) for text in given)
    return LLMatcher.grammar_from_lark(texts)


def _token_bytes(vocabulary: Vocabulary, size: int) -> list[bytes]:
    """Return the bytes of each id; none for special tokens, which no form allows."""
    found = [b""] * size
    to_bytes = bytes_of if any(piece.startswith("Ġ") for piece in vocabulary.pieces) else _sentence_piece
    for piece, id in vocabulary.pieces.items():
        if id < size:
            found[id] = to_bytes(piece)
    return found


def _sentence_piece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()
