"""SGLang's own `/generate`: token ids both ways, and cached tokens with the first event."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from preble.backends import Delta, EngineRequest
from preble.backends.openai.completions import TokenId, TokenIds
from preble.backends.openai.explanation import Explanation
from preble.backends.openai.finish import Ending, finish_reason
from preble.backends.openai.sse import DONE
from preble.backends.openai.status import error_of_event
from preble.backends.openai.stream_errors import decoded_event, raise_error_in
from preble.errors import EngineError
from preble.tokens import pack, unpack
from preble.types import FinishReason, PromptLogprobs, SamplingParams, TokenLogprob

_SAMPLING = {
    "token_limit": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "ignore_eos": "ignore_eos",
    "seed": "sampling_seed",
}
"""Our name of a sampling field, and SGLang's."""

_Logprob = tuple[float | None, TokenId, str | None]


class _Finish(msgspec.Struct):
    type: str | None = None
    matched: Any = None
    message: str | None = None
    status_code: int | None = None


class _Meta(msgspec.Struct):
    finish_reason: _Finish | str | None = None
    completion_tokens: Annotated[int, Meta(ge=0)] | None = None
    cached_tokens: int | None = None
    input_token_logprobs: list[_Logprob] | None = None
    input_top_logprobs: list[list[_Logprob] | None] | None = None
    output_token_logprobs: list[_Logprob] | None = None
    output_top_logprobs: list[list[_Logprob] | None] | None = None


class _Event(msgspec.Struct):
    output_ids: TokenIds | None = None
    meta_info: _Meta | None = None
    error: Any = None


_logger = logging.getLogger("preble.openai")
_events = msgspec.json.Decoder(_Event, strict=False)


class Generate:
    """SGLang's native endpoint.

    A priority is multiplied by `priority` (see `metrics.sglang_priority`), since servers differ in what number goes
    first. If that is 0, none is sent, and a warning that names the `server` says so once.
    """

    path = "/generate"

    def __init__(self, server: str = "SGLang", *, priority: int = 0) -> None:
        self._server = server
        self._priority = priority
        self._warned = False

    def body(self, request: EngineRequest) -> bytes:
        """Return what to POST."""
        fields: dict[str, Any] = {
            "input_ids": list(unpack(request.tokens)),
            "sampling_params": _sampling(request.sampling),
            "stream": True,
            **_logprob_fields(request.sampling),
        }
        if request.cache_salt:
            fields["cache_salt"] = request.cache_salt
        return msgspec.json.encode(fields | self._priority_field(request.priority))

    def reader(self, request: EngineRequest) -> GenerateReader:
        """Return what reads the events of the response."""
        return GenerateReader(request)

    def _priority_field(self, priority: int) -> dict[str, int]:
        if self._priority:
            return {"priority": priority * self._priority}  # also 0: SGLang takes a request without one last
        if priority and not self._warned:
            self._warned = True
            _logger.warning("%s: priorities are ignored; start it with --enable-priority-scheduling", self._server)
        return {}


class GenerateReader:
    """Reads the events of one response, whether each holds all ids so far or only new ones."""

    def __init__(self, request: EngineRequest) -> None:
        self._logprobs = request.sampling.logprobs
        self._prompt_logprobs = request.sampling.prompt_logprobs
        self._stops = frozenset(request.sampling.stop_token_ids)
        # With `ignore_eos` SGLang ignores stop tokens too, so they are looked for here.
        self._looked_for = self._stops if request.sampling.ignore_eos else frozenset()
        self._least = request.sampling.min_tokens
        self._ending = Ending(request.sampling.token_limit)
        self._seen = 0
        self._cached_known = False

    def read(self, event: bytes) -> Delta | None:
        """Return the delta of an event, if it has one. Raises the error in it, or EngineError if it is malformed."""
        if event == DONE:
            self._ending.done()
            return self.end()
        message = decoded_event(event, _events)
        if message.error or not message.meta_info:
            raise_error_in(event, sure=bool(message.error))
        return self._read(message.output_ids or [], message.meta_info) if message.meta_info else None

    def end(self) -> Delta | None:
        """Return the last delta if the stream may end here, or None if it broke off too early."""
        reason = self._ending.reason()
        return None if reason is None else Delta(b"", finish_reason=reason)

    def _read(self, output: list[int], meta: _Meta) -> Delta:
        ids = output[-new:] if (new := (meta.completion_tokens or 0) - self._seen) > 0 else []
        cached = None if self._cached_known else meta.cached_tokens
        self._cached_known = True
        logprobs = _logprobs(meta, len(ids), self._logprobs) if self._logprobs is not None and ids else None
        said = _Finish(meta.finish_reason) if isinstance(meta.finish_reason, str) else meta.finish_reason or _Finish()
        finish, stop = _finish(said), self._stop(said)
        if end := self._stopped(ids):
            ids, logprobs, finish, stop = ids[:end], logprobs and logprobs[:end], "stop", ids[end - 1]
        self._seen += len(ids)
        self._ending.answered(len(ids), finish)
        return Delta(pack(ids), cached, finish, stop, logprobs, prompt_logprobs=self._prompt_logprobs_once(meta))

    def _prompt_logprobs_once(self, meta: _Meta) -> PromptLogprobs | None:
        most, self._prompt_logprobs = self._prompt_logprobs, None
        if most is None:
            return None
        if not meta.input_token_logprobs:
            raise EngineError("the server sent a prompt without its log-probabilities")
        tops = meta.input_top_logprobs or [None] * len(meta.input_token_logprobs)
        return (None, *_entries(meta.input_token_logprobs[1:], tops[1:], most))

    def _stopped(self, ids: list[int]) -> int:
        """Return how many new ids there are up to a stop token that SGLang ignored; 0 if there is none."""
        for index, token in enumerate(ids if self._looked_for else ()):
            if token in self._looked_for and self._seen + index + 1 >= self._least:
                return index + 1
        return 0

    def _stop(self, finish: _Finish) -> int | None:
        matched = finish.matched
        return matched if type(matched) is int and matched in self._stops else None


def _sampling(sampling: SamplingParams) -> dict[str, Any]:
    fields = {theirs: getattr(sampling, ours) for ours, theirs in _SAMPLING.items()}
    if sampling.seed is None:
        del fields["sampling_seed"]
    fields["top_k"] = sampling.top_k or -1
    fields["skip_special_tokens"] = False
    if sampling.logit_bias:
        fields["logit_bias"] = sampling.biases
    if sampling.stop_token_ids:
        fields["stop_token_ids"] = list(sampling.stop_token_ids)
    return fields


def _finish(finish: _Finish) -> FinishReason | None:
    if finish.type == "abort" and finish.message and finish.status_code:
        raise error_of_event(Explanation(finish.message, finish.status_code))
    return finish_reason(finish.type)


def _logprob_fields(sampling: SamplingParams) -> dict[str, Any]:
    asked = [count for count in (sampling.logprobs, sampling.prompt_logprobs) if count is not None]
    fields: dict[str, Any] = {"return_logprob": True, "top_logprobs_num": max(asked)} if asked else {}
    return fields | ({} if sampling.prompt_logprobs is None else {"logprob_start_len": 0})


def _logprobs(meta: _Meta, count: int, most: int) -> tuple[TokenLogprob, ...]:
    chosen = (meta.output_token_logprobs or [])[-count:]
    tops = (meta.output_top_logprobs or [])[-count:] or [None] * count
    if len(chosen) != count or len(tops) != count:
        raise EngineError("the server sent tokens without their log-probabilities")
    return _entries(chosen, tops, most)


def _entries(chosen: list[_Logprob], tops: Sequence[list[_Logprob] | None], most: int) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(id, logprob or 0.0, tuple((other, value or 0.0) for value, other, _ in (top or ())[:most]))
        for (logprob, id, _), top in zip(chosen, tops, strict=False)
    )
