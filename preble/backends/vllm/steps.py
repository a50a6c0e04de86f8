"""What vLLM's steps computed and took, from its counts of each step and from the requests that were inside.

vLLM tells how many prompt tokens and how many decodes a step had, not whose and in what context. The requests say that:
where they leave a doubt, a step is not reported. A step ends when vLLM tells of it and began when the one before ended,
or, if it was idle, when a request was sent.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from preble.core.cost import StepTiming

_KEPT = 256


class _Request:
    """One request inside: its tokens so far, and while it is being prefilled the steps that may be its own."""

    __slots__ = ("cached", "length", "prompt", "steps")

    def __init__(self, prompt: int) -> None:
        self.prompt = self.length = prompt
        self.cached: int | None = None
        self.steps: list[_Prefill] = []


class _Prefill:
    """A step with `tokens` of these requests' prompts, beside decodes."""

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
    """Puts together what is told of steps and of requests, in the order in which it happened; times in seconds."""

    def __init__(self) -> None:
        self._prefilling: dict[int, _Request] = {}
        self._decoding: dict[int, _Request] = {}
        self._timings: deque[StepTiming] = deque(maxlen=_KEPT)
        self._since: float | None = None
        self._idle = True

    def sent(self, id: int, prompt: int, now: float) -> None:
        """A request of so many tokens goes into the engine."""
        self._prefilling[id] = _Request(prompt)
        if self._idle:
            self._since, self._idle = now, False

    def came(self, id: int, tokens: int, cached: int | None) -> None:
        """Its stream brought tokens; the first ones tell how many of its prompt were `cached`."""
        request = self._prefilling.pop(id, None)
        if request is not None and cached is not None:
            request.cached = cached
            self._decoding[id] = request
            self._resolve(request)
        if id in self._decoding:
            self._decoding[id].length += tokens

    def left(self, id: int) -> None:
        """Its stream has ended."""
        self._prefilling.pop(id, None)
        self._decoding.pop(id, None)

    def step(self, details: Any, *, idle: bool, now: float) -> None:
        """Take in a step, before any stream brings its tokens; `details` are vLLM's counts, None if it has none.

        `idle` says that no request is left in it.
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
        """Report the steps that prefilled it, if they account for all of its tokens."""
        steps, request.steps = request.steps, []
        if all(len(step.requests) == 1 for step in steps):
            self._chunks(request, steps)
        elif len(steps) == 1:
            self._together(steps[0])

    def _chunks(self, request: _Request, steps: list[_Prefill]) -> None:
        context = request.cached or 0
        if context + sum(step.tokens for step in steps) == request.prompt:
            for step in steps:
                context += step.tokens
                self._report(step, context, step.tokens * context)

    def _together(self, step: _Prefill) -> None:
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
