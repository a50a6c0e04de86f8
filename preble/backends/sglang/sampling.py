"""One request in SGLang's words."""

from __future__ import annotations

from typing import Any

import msgspec

from preble.backends import EngineRequest
from preble.errors import ContextLengthError, InvalidRequestError
from preble.tokens import TOKEN_BYTES, highest
from preble.types import SamplingParams

_GREATEST_REPETITION_PENALTY = 2.0


class Limits(msgspec.Struct, frozen=True):
    """What a request may be: ids below `vocab_size`, prompt and output together at most `room` tokens.

    `seeded` says that the engine computes deterministically, and so can honour a seed; `tokenizer` that it has one,
    which it needs in order to know what ends a text.
    """

    vocab_size: int
    room: int
    seeded: bool
    tokenizer: bool


def check(request: EngineRequest, limits: Limits) -> None:
    """Raise InvalidRequestError or ContextLengthError if SGLang cannot serve this: it may not survive the attempt."""
    length = len(request.tokens) // TOKEN_BYTES
    if not length or len(request.tokens) % TOKEN_BYTES:
        raise InvalidRequestError("needs at least one token, packed as int32", field="prompt")
    if length >= limits.room:
        raise ContextLengthError(f"{length} tokens, must be below {limits.room}", field="prompt")
    if highest(request.tokens) >= limits.vocab_size:
        raise InvalidRequestError(f"a token id is not below {limits.vocab_size}", field="prompt")
    _check_sampling(request.sampling, limits)


def _check_sampling(sampling: SamplingParams, limits: Limits) -> None:
    if sampling.repetition_penalty > _GREATEST_REPETITION_PENALTY:
        most = f"{_GREATEST_REPETITION_PENALTY:g}"
        raise InvalidRequestError(f"SGLang allows at most {most}", field="repetition_penalty")
    if sampling.seed is not None and sampling.temperature and not limits.seeded:
        reason = "SGLang honours seeds only with the engine option enable_deterministic_inference"
        raise InvalidRequestError(reason, field="seed")
    if _least(sampling) and not limits.tokenizer:
        raise InvalidRequestError("SGLang needs its tokenizer for this (skip_tokenizer_init)", field="min_tokens")


def parameters(request: EngineRequest, limits: Limits) -> dict[str, Any]:
    """Return SGLang's `sampling_params` for a request that passed `check`.

    Stop strings stay in the cluster. With `ignore_eos` SGLang ignores stop tokens too: `Answer` looks for them.
    """
    sampling = request.sampling
    most = min(sampling.max_tokens, limits.room - len(request.tokens) // TOKEN_BYTES)
    return {
        "max_new_tokens": most,
        "min_new_tokens": min(_least(sampling), most),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k if sampling.top_k > 0 else -1,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        # An id outside the vocabulary never matches, and an index of one would end the scheduler.
        "stop_token_ids": [token for token in sampling.stop_token_ids if token < limits.vocab_size],
        "ignore_eos": sampling.ignore_eos,
        "sampling_seed": sampling.seed,
    }


def _least(sampling: SamplingParams) -> int:
    # For so many tokens SGLang forbids whatever could end the output, ignored or not: not if there is nothing.
    return 0 if sampling.ignore_eos and not sampling.stop_token_ids else sampling.min_tokens
