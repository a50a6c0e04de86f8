"""What steps took on workers that do not tell: first tokens and ends give it away. For servers behind a URL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from preble.core.cost import StepTiming
from preble.core.request import Request, RequestId
from preble.tokens import TOKEN_BYTES

_LEAST_STEPS = 4
"""A request that decodes for fewer saw too little of them: when each ended is known to a step."""


class _Sums(msgspec.Struct, frozen=True, gc=False):
    """What was done on a worker, ever: token-seconds of decoding requests and of their contexts, and prefills."""

    decoding: float = 0.0
    context: float = 0.0
    new: int = 0
    prefill_context: int = 0
    product: int = 0


class _Burst:
    """Requests that came to an idle worker before any of them had a first token: nothing else was prefilled."""

    __slots__ = ("begun", "context", "here", "new", "product", "since", "until", "usable", "waiting")

    def __init__(self, now: float) -> None:
        self.since = self.until = now
        self.waiting = self.here = 0
        self.new = self.context = self.product = 0
        self.begun = False
        self.usable = True

    def join(self) -> None:
        """One more came."""
        self.waiting += 1
        self.here += 1

    def landed(self, now: float) -> None:
        """One of them has its first token."""
        self.begun = True
        self.waiting -= 1
        self.until = now

    def finished(self, request: Request) -> list[StepTiming]:
        """One of them left: when the last does, how many tokens were cached is known of all."""
        missed, length = _missed(request), request.length
        self.here -= 1
        self.new += missed
        self.context += length
        self.product += missed * length
        if self.here or not self.usable:
            return []
        return [StepTiming(self.new, self.context, self.context, self.product, 0, self.until - self.since)]


class _Stay(msgspec.Struct, gc=False):
    """A request on a worker: the burst it came with, if any, and what had been done when it had its first token."""

    burst: _Burst | None
    landed_at: float = 0.0
    sums: _Sums | None = None


class _Watch:
    """One worker. A request that decodes gets a token with every step, so it counts steps for all who are there.

    From its first token to its last, its tokens less one are the steps; how many others decoded meanwhile, over which
    contexts, and which prefills landed, is known of them all: the average of those steps is told as one. The part of a
    prefill that was done before the span began, or is not landed when it ends, is as long on the average.
    Requests that find the worker idle tell of their prefills, unless others come before all have their first token.
    """

    def __init__(self) -> None:
        self._stays: dict[RequestId, _Stay] = {}
        self._burst: _Burst | None = None
        self._sums = _Sums()
        self._decoding = self._context = 0
        self._now = 0.0

    def placed(self, id: RequestId, now: float) -> None:
        """A request came."""
        if not self._stays:
            self._burst = _Burst(now)
        elif self._burst and self._burst.begun:
            self._burst.usable = self._burst.usable and not self._burst.waiting
            self._burst = None
        if self._burst:
            self._burst.join()
        self._stays[id] = _Stay(self._burst)

    def landed(self, request: Request, now: float) -> None:
        """Its first token came."""
        sums, missed = self._advance(now), _missed(request)
        stay = self._stays[request.id]
        self._sums = stay.sums = _Sums(
            sums.decoding,
            sums.context,
            sums.new + missed,
            sums.prefill_context + request.length,
            sums.product + missed * request.length,
        )
        stay.landed_at = now
        self._decoding += 1
        self._context += request.length
        if stay.burst:
            stay.burst.landed(now)

    def finished(self, request: Request, tokens: int, now: float) -> list[StepTiming]:
        """It left with so many tokens: return what that tells."""
        stay, sums = self._stays.pop(request.id), self._advance(now)
        seconds, steps = now - stay.landed_at, tokens - 1
        timely = stay.sums is not None and (seconds > 0 or steps <= 0)  # else nobody told of its first token
        if stay.burst:
            stay.burst.usable = stay.burst.usable and timely
        found: list[StepTiming] = stay.burst.finished(request) if stay.burst else []
        if stay.sums is not None:
            self._decoding -= 1
            self._context -= request.length
            if timely and steps >= _LEAST_STEPS:
                found.append(_average(stay.sums, sums, seconds, steps))
        return found

    def check(self, here: Sequence[Request]) -> None:
        """Raise AssertionError if it does not watch those in flight `here`."""
        landed = [request for request in here if request.landed]
        assert set(self._stays) == {request.id for request in here}, "it watches others than those in flight"
        assert {id for id, stay in self._stays.items() if stay.sums} == {request.id for request in landed}, (
            "first tokens"
        )
        assert self._decoding == len(landed), "requests that decode"
        assert self._context == sum(request.length for request in landed), "contexts of those that decode"

    def _advance(self, now: float) -> _Sums:
        elapsed, self._now, sums = now - self._now, now, self._sums
        decoding, context = sums.decoding + elapsed * self._decoding, sums.context + elapsed * self._context
        self._sums = _Sums(decoding, context, sums.new, sums.prefill_context, sums.product)
        return self._sums


class InferredSteps:
    """The workers that do not tell, by slot. The rest passes without a trace."""

    def __init__(self) -> None:
        self._watches: dict[int, _Watch] = {}

    def watch(self, slot: int) -> None:
        """Its worker does not tell of its steps."""
        self._watches[slot] = _Watch()

    def forget(self, slot: int) -> None:
        """The worker is gone."""
        self._watches.pop(slot, None)

    def placed(self, request: Request, now: float) -> None:
        """A request came to its slot."""
        if watch := self._watches.get(request.slot):
            watch.placed(request.id, now)

    def landed(self, request: Request, now: float) -> None:
        """Its prefill landed: the first token is here."""
        if watch := self._watches.get(request.slot):
            watch.landed(request, now)

    def finished(self, request: Request, output: bytes, now: float) -> Iterable[StepTiming]:
        """It ended, with all of its packed `output`: return what that tells of the steps of its slot."""
        watch = self._watches.get(request.slot)
        return watch.finished(request, len(output) // TOKEN_BYTES, now) if watch else ()

    def check(self, slot: int, here: Sequence[Request]) -> None:
        """Raise AssertionError if a slot's watch does not know its requests in flight."""
        if watch := self._watches.get(slot):
            watch.check(here)


def _missed(request: Request) -> int:
    """The prompt tokens that were computed: the last one always is."""
    return max(1, request.length - request.cached)


def _average(before: _Sums, after: _Sums, seconds: float, steps: int) -> StepTiming:
    """The average of so many steps that took so many `seconds` together."""
    decodes = max(1, round((after.decoding - before.decoding) / seconds))
    new = decodes + round((after.new - before.new) / steps)
    prefill = round((after.prefill_context - before.prefill_context) / steps)
    context = max(new, prefill + round((after.context - before.context) / seconds))
    product = round((after.product - before.product) / steps)
    return StepTiming(new, context, prefill, product, decodes, seconds / steps)
