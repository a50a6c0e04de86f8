"""The tokens that the `sim` engine makes up: words of the model's own vocabulary, if it has one."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import msgspec

from preble.backends import batching
from preble.backends.torch.end_tokens import end_token_ids
from preble.model_files.gguf import read_gguf
from preble.model_files.vocabulary import read_vocabulary
from preble.tokens import TOKEN_BYTES, unpack
from preble.types import TokenLogprob

FIRST_TOKEN = 3
"""The lowest id made up without a model: those below stand for padding, beginning and end."""
END_TOKEN = 2
"""The id that ends a text without a model."""
ANSWER_TOKENS = 200
"""How long texts are on average that only the context bounds."""
DEFAULT_SIZE = 32_000

_TAIL_TOKENS = 4
_MASK = (1 << 62) - 1
_WORD = re.compile("[Ġ▁][a-z]{2,}")


class Words(msgspec.Struct, frozen=True):
    """`ids` are what is drawn from, `end` is the token that ends a text, and `size` bounds all ids.

    They are `plain` without a model: those of `preble.text.plain`.
    """

    ids: Sequence[int]
    end: int | None
    size: int
    plain: bool = False


def words_of(model: str | None, size: int | None) -> Words:
    """Return the words of a model's folder or GGUF file; numbers below `size` where there is none.

    Words are the tokens of a space and lower-case letters, or else all that are not special. A `size` that is given is
    a bound for these too. Raises ModelError if a file is malformed.
    """
    path = Path(model) if model else None
    vocabulary = read_vocabulary(path) if path and path.exists() else None
    if path is None or vocabulary is None:
        size = size or DEFAULT_SIZE
        return Words(range(FIRST_TOKEN, size), END_TOKEN, size, plain=path is None)
    bound = size or vocabulary.size
    pieces = {piece: id for piece, id in vocabulary.pieces.items() if id < bound}
    ids = sorted(id for piece, id in pieces.items() if _WORD.fullmatch(piece)) or sorted(pieces.values())
    return Words(ids or range(FIRST_TOKEN, bound), _end_of(path, bound), bound)


def _end_of(path: Path, bound: int) -> int | None:
    end = read_gguf(path).get("tokenizer.ggml.eos_token_id", int) if path.is_file() else None
    ends = [id for id in ((end,) if path.is_file() else end_token_ids(path, None)) if id is not None and id < bound]
    return ends[0] if ends else None


class Inventor:
    """Chooses the next token of sequences: a fixed function of the seed, the last four tokens and the position.

    The seed is the engine's and the request's. Greedy requests have the engine's alone. Others without a seed have
    their id for it, so that they differ. A sequence that only the context, `limit`, bounds may end by itself.
    """

    def __init__(self, words: Words, seed: int, limit: int) -> None:
        self.words = words
        self._seed = seed
        self._limit = limit

    def next(self, sequence: batching.Sequence) -> batching.SampledToken:
        """Return the next token, with its log-probability if that is asked for."""
        sampling = sequence.sampling
        position = len(sequence.tokens) // TOKEN_BYTES
        state = sequence.tokens[-_TAIL_TOKENS * TOKEN_BYTES :] + struct.pack("<Iq", position, self._seed_of(sequence))
        noise = crc32(state)
        token = self._end(sequence, bytes(state))
        if token is None:
            token = self._biased(noise, sampling.biases) if sampling.logit_bias else self._word(noise)
        count = sampling.logprobs
        return token, None if count is None else self._logprob(token, noise, count)

    def score(self, span: batching.TokenSpan) -> None:
        """Add the log-probabilities that are asked for of the part of a prompt that `span` computes."""
        sequence, last = span.sequence, span.start + span.scored
        entries, count = sequence.prompt_logprobs, sequence.sampling.prompt_logprobs
        assert entries is not None
        for position, token in enumerate(unpack(bytes(sequence.tokens[: (last + 1) * TOKEN_BYTES]))):
            if position > span.start:
                entries.append(self._logprob(token, crc32(struct.pack("<II", token, position)), count or 0))

    def _seed_of(self, sequence: batching.Sequence) -> int:
        sampling = sequence.sampling
        if not sampling.temperature:
            return self._seed & _MASK
        if sampling.seed is not None:
            return (self._seed + sampling.seed) & _MASK
        return crc32(struct.pack("<q", sequence.id)) << 30 ^ self._seed & _MASK

    def _end(self, sequence: batching.Sequence, state: bytes) -> int | None:
        """The end token if the text ends here, which is as likely everywhere."""
        sampling, end = sequence.sampling, self.words.end
        open_ended = sequence.prompt_tokens + sampling.token_limit >= self._limit
        if not open_ended or sampling.ignore_eos or sequence.output_tokens + 1 < sampling.min_tokens:
            return None
        return end if crc32(b"end" + state) % ANSWER_TOKENS == 0 and end not in sampling.biases else None

    def _word(self, noise: int) -> int:
        return self.words.ids[noise % len(self.words.ids)]

    def _biased(self, noise: int, biases: dict[int, float]) -> int:
        """Draw a word as if all were equally likely but for their biases."""
        weights = {token: math.exp(bias) for token, bias in biases.items()}
        point = crc32(noise.to_bytes(4, "little")) / (1 << 32) * (len(self.words.ids) + sum(weights.values()))
        for token, weight in weights.items():
            point -= weight
            if point < 0:
                return token
        others = (self._word(noise + step) for step in range(len(biases) + 1))
        return next((token for token in others if token not in biases), max(weights, key=weights.__getitem__))

    def _logprob(self, token: int, noise: int, count: int) -> TokenLogprob:
        logprob = -(1 + noise % 1000) / 1000
        count = min(count, self.words.size)
        top = tuple(((token + rank) % self.words.size, logprob - rank) for rank in range(count))
        return TokenLogprob(token, logprob, top)
