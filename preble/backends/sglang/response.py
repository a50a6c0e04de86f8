"""From the outputs that SGLang streams for one request to deltas."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from preble.backends import Delta
from preble.errors import EngineError
from preble.tokens import pack
from preble.types import FinishReason, PromptLogprobs, SamplingParams, TokenLogprob


class Response:
    """Turns the outputs of one request into deltas, in order. `ended` is True after the last one.

    `eos_token_ids` end the output without being reported as a `stop_reason`.
    """

    def __init__(self, sampling: SamplingParams, eos_token_ids: Collection[int]) -> None:
        self._sampling = sampling
        self._eos_token_ids = eos_token_ids
        # With `ignore_eos` SGLang ignores stop tokens too, so they are looked for here.
        self._stops = frozenset(sampling.stop_token_ids if sampling.ignore_eos else ())
        self._generated = 0
        self._prompt_told = sampling.prompt_logprobs is None
        self._cached: int | None = None
        self.ended = False

    def delta(self, output: Mapping[str, Any]) -> Delta:
        """Return the delta of one incremental output. Raises EngineError if SGLang failed the request."""
        meta = output["meta_info"]
        finish, stop = self._finish(meta["finish_reason"])
        tokens: list[int] = output["output_ids"]
        if finish == "abort":
            # A request that is aborted while it waits repeats its last token.
            tokens = tokens[: max(0, meta["completion_tokens"] - self._generated)]
        if self._stops and (end := self._stop(tokens)):
            tokens, finish, stop = tokens[:end], "stop", tokens[end - 1]
        self._generated += len(tokens)
        self.ended = finish is not None
        most = self._sampling.logprobs
        logprobs = _logprobs(meta, len(tokens), most) if most is not None else None
        prompt_logprobs = self._prompt_logprobs_once(meta)
        return Delta(pack(tokens), self._cached_once(meta), finish, stop, logprobs, prompt_logprobs=prompt_logprobs)

    def _finish(self, reason: Mapping[str, Any] | None) -> tuple[FinishReason | None, int | None]:
        if reason is None:
            return None, None
        match reason["type"], reason.get("matched"):
            case "length", _:
                return "length", None
            case "stop", int(token):
                return "stop", None if token in self._eos_token_ids else token
            case "abort", _ if reason.get("message") is None:
                return "abort", None
        raise EngineError(f"SGLang: {reason.get('message') or reason}")

    def _stop(self, tokens: Sequence[int]) -> int:
        """Return how many of the new tokens there are up to a stop token; 0 if there is none."""
        for index, token in enumerate(tokens):
            if token in self._stops and self._generated + index + 1 >= self._sampling.min_tokens:
                return index + 1
        return 0

    def _cached_once(self, meta: Mapping[str, Any]) -> int | None:
        """Return the first count only: a request that SGLang retracts and resumes finds its own tokens cached."""
        if self._cached is not None or "cached_tokens" not in meta:
            return None
        self._cached = int(meta["cached_tokens"])
        return self._cached

    def _prompt_logprobs_once(self, meta: Mapping[str, Any]) -> PromptLogprobs | None:
        """Return those of the first output that has them: SGLang repeats them with each one."""
        if self._prompt_told or not meta.get("input_token_logprobs"):
            return None
        self._prompt_told = True
        told = meta["input_token_logprobs"]
        tops = meta.get("input_top_logprobs") or [None] * len(told)
        return (None, *_entries(told[1:], tops[1:], self._sampling.prompt_logprobs or 0))


def aborted(tokens: int) -> dict[str, Any]:
    """Return the output that ends a request after `tokens` tokens because we want it to."""
    return {
        "text": "",
        "output_ids": [],
        "meta_info": {"finish_reason": {"type": "abort", "message": None}, "completion_tokens": tokens},
    }


def _logprobs(meta: Mapping[str, Any], count: int, most: int) -> tuple[TokenLogprob, ...]:
    chosen = meta.get("output_token_logprobs", ())[:count]
    return _entries(chosen, meta.get("output_top_logprobs") or [None] * len(chosen), most)


def _entries(chosen: Sequence[Any], tops: Sequence[Any], most: int) -> tuple[TokenLogprob, ...]:
    """From SGLang's (logprob, id, text) to ours, with the `most` likely tokens of each."""
    return tuple(
        TokenLogprob(token, logprob, tuple((id, value) for value, id, _ in (top or ())[:most]))
        for (logprob, token, _), top in zip(chosen, tops, strict=False)
    )
