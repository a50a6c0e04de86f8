"""From our requests to SGLang's sampling parameters."""

from __future__ import annotations

from typing import Any

import msgspec

from preble.backends import EngineInfo, EngineRequest
from preble.backends.checks import check_biases, check_prompt
from preble.errors import InvalidRequestError
from preble.tokens import TOKEN_BYTES
from preble.types import SamplingParams

_GREATEST_REPETITION_PENALTY = 2.0


class Limits(msgspec.Struct, frozen=True):
    """The limits that a request must respect: those of `info`, and those of SGLang's options.

    `seeded` is True if SGLang computes deterministically, which seeds need. `tokenizer` is True if it has loaded its
    tokenizer, which `min_tokens` needs.
    """

    info: EngineInfo
    seeded: bool
    tokenizer: bool


def check(request: EngineRequest, limits: Limits) -> None:
    """Raise InvalidRequestError or ContextLengthError if SGLang cannot serve this request, which might even end it."""
    info = limits.info
    check_prompt(request.tokens, context_limit=info.context_limit, kv_tokens=info.kv_tokens, vocab_size=info.vocab_size)
    check_biases(request.sampling, info.vocab_size)
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

    Stop strings are the cluster's task. With `ignore_eos` SGLang ignores stop tokens too, so `Response` looks for them.
    """
    sampling = request.sampling
    most = min(sampling.token_limit, limits.info.context_limit - len(request.tokens) // TOKEN_BYTES)
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
        "stop_token_ids": [token for token in sampling.stop_token_ids if token < limits.info.vocab_size],
        "ignore_eos": sampling.ignore_eos,
        "logit_bias": {str(id): bias for id, bias in sampling.biases.items()} or None,
        # Without a seed, deterministic requests would all draw the same random numbers.
        "sampling_seed": request.id if sampling.seed is None else sampling.seed,
    }


def logprob_fields(sampling: SamplingParams) -> dict[str, Any]:
    """Return what asks SGLang for log-probabilities. It takes one number for prompt and output."""
    asked = [count for count in (sampling.logprobs, sampling.prompt_logprobs) if count is not None]
    return {
        "return_logprob": bool(asked),
        "top_logprobs_num": max(asked, default=0),
        "logprob_start_len": -1 if sampling.prompt_logprobs is None else 0,
    }


def _least(sampling: SamplingParams) -> int:
    # SGLang forbids all end and stop tokens until `min_new_tokens`, even those that are ignored anyway.
    return 0 if sampling.ignore_eos and not sampling.stop_token_ids else sampling.min_tokens
