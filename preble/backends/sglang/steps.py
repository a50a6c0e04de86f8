"""What SGLang's steps took, from the counters that its scheduler publishes and the requests that were inside.

The counters are sums over all steps so far: prompt tokens computed and the time of the steps that did, and moments of
the decode steps. A step can be told from them where only one prefill, or only decodes of one batch size, came between
two looks; what came together with others is not reported. SGLang prefills and decodes in separate steps.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from preble.core.cost import StepTiming

_KEPT = 256
_PATIENCE = 8
"""Prefills after which counters that do not agree are taken as they are: a request that was aborted is in them."""
_MICROSECOND = 1e-6


class _Request:
    """One request whose first token has come."""

    __slots__ = ("length", "prompt", "uncached")

    def __init__(self, prompt: int, cached: int) -> None:
        self.prompt = self.length = prompt
        self.uncached = prompt - cached


class Steps:
    """Puts together what is told of requests and what the counters say, in the order in which it is seen.

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
        """A request of so many tokens goes into the engine."""
        self._prompts[id] = prompt

    def came(self, id: int, tokens: int, cached: int | None) -> None:
        """Its stream brought tokens; the first ones tell how many of its prompt were `cached`."""
        if cached is not None and id in self._prompts:
            request = self._decoding[id] = _Request(self._prompts[id], cached)
            self._prefilled.append(request)
        if id in self._decoding:
            self._decoding[id].length += tokens

    def left(self, id: int) -> None:
        """Its stream has ended."""
        self._prompts.pop(id, None)
        self._decoding.pop(id, None)

    def look(self, load: Any) -> None:
        """Take in the counters of SGLang's LoadSnapshot, as it was published last."""
        self._look_at_prefills(load.total_prefill_uncached_tokens, load.total_prefill_busy_us)
        if load.decode_moments:
            self._look_at_decodes(*load.decode_moments[:4])

    def take(self) -> list[StepTiming]:
        """Return and forget the steps that are known by now, at most the last 256 of them."""
        timings = list(self._timings)
        self._timings.clear()
        return timings

    def _look_at_prefills(self, tokens: int, microseconds: int) -> None:
        """Report a lone prefill. Its tokens must be all that were computed since all were last accounted for."""
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
        """Report the mean of the decode steps since the last look, if all had as many requests as there are."""
        steps, sequences, microseconds, squares = (a - b for a, b in zip(moments, self._moments, strict=True))
        self._moments = moments
        batch = len(self._decoding)
        if not steps or sequences != steps * batch or squares != steps * batch * batch:
            return
        since = int(steps) // 2 * batch  # the context as it was in the middle
        context = sum(request.length for request in self._decoding.values()) - since
        seconds = microseconds / steps * _MICROSECOND
        self._timings.append(StepTiming(batch, max(context, batch), 0, 0, batch, seconds))
