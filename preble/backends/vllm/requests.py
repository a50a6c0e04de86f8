"""From our requests to vLLM's sampling parameters, and from vLLM's outputs to deltas."""

from __future__ import annotations

from typing import Any

from vllm import SamplingParams as VllmSamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from preble.backends import Delta
from preble.errors import EngineError
from preble.tokens import pack
from preble.types import FinishReason, PromptLogprobs, SamplingParams, TokenLogprob

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort", "repetition": "stop"}
_UNSEEDED = -1
_INSTEAD = (1 << 63) - 1


def sampling_params(sampling: SamplingParams) -> VllmSamplingParams:
    """Return vLLM's sampling parameters, for a stream of token ids. Stop strings are the cluster's task.

    Raises vLLM's own error for what it cannot do.
    """
    return VllmSamplingParams(
        max_tokens=sampling.token_limit,
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        seed=_INSTEAD if sampling.seed == _UNSEEDED else sampling.seed,  # vLLM takes -1 for no seed
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        logit_bias=sampling.biases or None,
        structured_outputs=_structured(sampling),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _structured(sampling: SamplingParams) -> StructuredOutputsParams | None:
    if (name := sampling.structure) is None:
        return None
    given = getattr(sampling, name)
    if name == "choice":
        return StructuredOutputsParams(choice=list(given))
    return StructuredOutputsParams(**{"json" if name == "json_schema" else name: given})


def delta(output: Any, sampling: SamplingParams, *, first: bool) -> Delta:
    """Return the delta of a RequestOutput. Only the `first` one has the cached tokens: a preemption changes them.

    Raises EngineError if vLLM failed the request.
    """
    completion = output.outputs[0]
    finish, stopped_by = _finish_reason(completion.finish_reason), completion.stop_reason
    first = first and finish != "abort"  # a request aborted in vLLM's queue was not looked up in the cache
    return Delta(
        pack(list(completion.token_ids)),
        (output.num_cached_tokens or 0) if first else None,
        finish,
        stopped_by if stopped_by in sampling.stop_token_ids else None,
        _logprobs(completion, sampling.logprobs),
        prompt_logprobs=_prompt_logprobs(output, sampling.prompt_logprobs),
    )


def _finish_reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    if reason not in _FINISH:
        raise EngineError(f"vLLM ended the request: {reason}")
    return _FINISH[reason]


def _logprobs(completion: Any, count: int | None) -> tuple[TokenLogprob, ...] | None:
    if count is None or not completion.logprobs:
        return None
    pairs = zip(completion.token_ids, completion.logprobs, strict=True)
    return tuple(_logprob(token, position, count) for token, position in pairs)


def _prompt_logprobs(output: Any, count: int | None) -> PromptLogprobs | None:
    if count is None or not output.prompt_logprobs:
        return None
    pairs = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
    return tuple(_logprob(token, position, count) if position else None for token, position in pairs)


def _logprob(token: int, position: dict[int, Any], count: int) -> TokenLogprob:
    """Return one token's entry. vLLM lists the chosen token too, wherever it ranks."""
    likely = sorted(position.items(), key=lambda item: item[1].rank)
    top = tuple((id, entry.logprob) for id, entry in likely[: count + 1] if entry.rank <= count)
    return TokenLogprob(token, position[token].logprob, top[:count])
