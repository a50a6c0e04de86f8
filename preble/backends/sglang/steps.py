"""The durations of SGLang's steps, from the counters that its scheduler publishes and the requests that it served.

SGLang prefills and decodes in separate steps. Its counters are sums over all steps so far: the prompt tokens computed
and the time of the steps that computed them, and sums over the decode steps. The duration of a step follows from the
difference between two readings if there was only one prefill between them, or only decodes of one batch size. Other
steps are not reported.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from preble.core.cost import StepTiming

_KEPT = 256
_PATIENCE = 8
"""Prefills after which counters that do not match are taken as they are, since they may count an aborted request."""
_MICROSECOND = 1e-6


class _Request:
    """One request whose first token has come."""

    __slots__ = ("length", "prompt", "uncached")

    def __init__(self, prompt: int, cached: int) -> None:
        self.prompt = self.length = prompt
        self.uncached = prompt - cached


class Steps:
    """Combines the counters with the requests' tokens. Call its methods in the order in which things happen.

    A prefill of more than `max_prefill_tokens` tokens takes several steps.
    """

    def __init__(self, max_prefill_tokens: int) -> None:
        self._max_prefill_tokens = max_prefill_tokens
        self._prompts: dict[int, int] = {}
        self._decoding: dict[int, _Request] = {}
        self._prefilled: list[_Request] = []
        self._timings: deque[StepTiming] = deque(maxlen=_KEPT)
        self._tokens = self._microseconds = 0
        self._moments: tuple[float, ...] = (0.0,) * 4

    def sent(self, id: int, prompt: int) -> None:
        """Note that a request with a prompt of so many tokens goes into the engine."""
        self._prompts[id] = prompt

    def came(self, id: int, tokens: int, cached: int | None) -> None:
        """Note new tokens of a request; with the first ones comes how many tokens of its prompt were `cached`."""
        if cached is not None and id in self._prompts:
            request = self._decoding[id] = _Request(self._prompts[id], cached)
            self._prefilled.append(request)
        if id in self._decoding:
            self._decoding[id].length += tokens

    def left(self, id: int) -> None:
        """Note that a request's stream has ended."""
        self._prompts.pop(id, None)
        self._decoding.pop(id, None)

    def look(self, load: Any) -> None:
        """Take in the counters of the LoadSnapshot that SGLang published last."""
        self._look_at_prefills(load.total_prefill_uncached_tokens, load.total_prefill_busy_us)
        if load.decode_moments:
            self._look_at_decodes(*load.decode_moments[:4])

    def take(self) -> list[StepTiming]:
        """Return and forget the steps that are known by now, at most the last 256 of them."""
        timings = list(self._timings)
        self._timings.clear()
        return timings

    def _look_at_prefills(self, tokens: int, microseconds: int) -> None:
        """Report a prefill if it alone explains all prompt tokens computed since the counters last matched."""
        computed, prefilled = tokens - self._tokens, self._prefilled
        if not computed:
            return
        if computed == sum(request.uncached for request in prefilled):
            if len(prefilled) == 1 and computed <= self._max_prefill_tokens:
                context = prefilled[0].prompt
                seconds = (microseconds - self._microseconds) * _MICROSECOND
                self._timings.append(StepTiming(computed, context, context, computed * context, 0, seconds))
        elif self._prompts and len(prefilled) < _PATIENCE:
            return  # the counters are ahead of the streams, or behind: they may agree next time
        self._tokens, self._microseconds, self._prefilled = tokens, microseconds, []

    def _look_at_decodes(self, *moments: float) -> None:
        """Report the mean of the decode steps since the last reading, if all had as many requests as there are now."""
        steps, sequences, microseconds, squares = (a - b for a, b in zip(moments, self._moments, strict=True))
        self._moments = moments
        batch = len(self._decoding)
        if not steps or sequences != steps * batch or squares != steps * batch * batch:
            return
        since = int(steps) // 2 * batch  # the context as it was in the middle
        context = sum(request.length for request in self._decoding.values()) - since
        seconds = microseconds / steps * _MICROSECOND
        self._timings.append(StepTiming(batch, max(context, batch), 0, 0, batch, seconds))
