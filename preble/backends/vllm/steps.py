"""What vLLM's steps computed and how long they took, from its counts of each step and from the requests inside.

vLLM reports how many prompt tokens and how many decodes a step had, but not of which requests and in what context. That
follows from the requests that are inside; a step is not reported if it does not follow without doubt. A step ends when
vLLM reports it. It began when the one before ended or, if vLLM was idle, when a request was sent.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from preble.core.cost import StepTiming

_KEPT = 256


class _Request:
    """One request inside: its tokens so far and, during its prefill, the steps that may have computed its prompt."""

    __slots__ = ("cached", "length", "prompt", "steps")

    def __init__(self, prompt: int) -> None:
        self.prompt = self.length = prompt
        self.cached: int | None = None
        self.steps: list[_Prefill] = []


class _Prefill:
    """A step that computed `tokens` tokens of these requests' prompts, and decodes."""

    __slots__ = ("decode_context", "decodes", "requests", "seconds", "tokens")

    def __init__(
        self, requests: list[_Request], tokens: int, decodes: int, decode_context: int, seconds: float
    ) -> None:
        self.requests = requests
        self.tokens = tokens
        self.decodes = decodes
        self.decode_context = decode_context
        self.seconds = seconds


class Steps:
    """Combines steps and requests. Call its methods in the order in which things happen; times are in seconds."""

    def __init__(self) -> None:
        self._prefilling: dict[int, _Request] = {}
        self._decoding: dict[int, _Request] = {}
        self._timings: deque[StepTiming] = deque(maxlen=_KEPT)
        self._since: float | None = None
        self._idle = True

    def sent(self, id: int, prompt: int, now: float) -> None:
        """Note that a request with a prompt of so many tokens goes into the engine."""
        self._prefilling[id] = _Request(prompt)
        if self._idle:
            self._since, self._idle = now, False

    def came(self, id: int, tokens: int, cached: int | None) -> None:
        """Note new tokens of a request; with the first ones comes how many tokens of its prompt were `cached`."""
        request = self._prefilling.pop(id, None)
        if request is not None and cached is not None:
            request.cached = cached
            self._decoding[id] = request
            self._resolve(request)
        if id in self._decoding:
            self._decoding[id].length += tokens

    def left(self, id: int) -> None:
        """Note that a request's stream has ended."""
        self._prefilling.pop(id, None)
        self._decoding.pop(id, None)

    def step(self, details: Any, *, idle: bool, now: float) -> None:
        """Take in a step, before its tokens come. `details` are vLLM's counts of it, None if it has none.

        `idle` is True if vLLM has no request left.
        """
        since, self._since, self._idle = self._since, now, idle
        if details is None or since is None:
            return
        decodes = details.num_generation_requests
        if decodes != len(self._decoding) or decodes != details.num_generation_tokens:
            return
        context = sum(request.length for request in self._decoding.values())
        if not details.num_ctx_requests:
            self._timings.append(StepTiming(decodes, context, 0, 0, decodes, now - since))
        elif details.num_ctx_requests == len(self._prefilling):
            requests = list(self._prefilling.values())
            step = _Prefill(requests, details.num_ctx_tokens, decodes, context, now - since)
            for request in requests:
                request.steps.append(step)

    def take(self) -> list[StepTiming]:
        """Return and forget the steps that are known by now, at most the last 256 of them."""
        timings = list(self._timings)
        self._timings.clear()
        return timings

    def _resolve(self, request: _Request) -> None:
        """Report the steps that prefilled the request, if they explain all of its uncached tokens."""
        steps, request.steps = request.steps, []
        if all(len(step.requests) == 1 for step in steps):
            self._report_chunks(request, steps)
        elif len(steps) == 1:
            self._report_whole_prompts(steps[0])

    def _report_chunks(self, request: _Request, steps: list[_Prefill]) -> None:
        context = request.cached or 0
        if context + sum(step.tokens for step in steps) == request.prompt:
            for step in steps:
                context += step.tokens
                self._report(step, context, step.tokens * context)

    def _report_whole_prompts(self, step: _Prefill) -> None:
        """Report a step of several whole prompts, once all their cached tokens are known."""
        if any(request.cached is None for request in step.requests):
            return
        uncached = [request.prompt - (request.cached or 0) for request in step.requests]
        if sum(uncached) == step.tokens:
            context = sum(request.prompt for request in step.requests)
            product = sum(n * request.prompt for n, request in zip(uncached, step.requests, strict=True))
            self._report(step, context, product)

    def _report(self, step: _Prefill, context: int, product: int) -> None:
        computed, total = step.tokens + step.decodes, context + step.decode_context
        self._timings.append(StepTiming(computed, total, context, product, step.decodes, step.seconds))
