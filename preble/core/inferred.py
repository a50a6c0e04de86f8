"""How long steps took on workers that do not report it, inferred from first tokens and ends (servers behind URLs)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from preble.core.cost import StepTiming
from preble.core.request import Request, RequestId
from preble.tokens import TOKEN_BYTES

_LEAST_STEPS = 4
"""A request that decodes for fewer steps says too little: the time of its ends is known to one step only."""
_SHORTEST, _LONGEST = 1e-3, 5.0
"""Seconds that a step may take. Faster tokens were collected by a proxy, or by a pause of this process; slower ones
come after a break in which the request was tried again."""


class _Sums(msgspec.Struct, frozen=True, gc=False):
    """Sums over the life of a worker: seconds times decoding requests, seconds times their contexts, and prefills."""

    decoding: float = 0.0
    context: float = 0.0
    new: int = 0
    prefill_context: int = 0
    product: int = 0


class _Burst:
    """Requests that came to an idle worker before any of them had a first token, so that nothing else was prefilled.

    They are reported as one step, even if the engine took several. The burst is not `usable` if something else may have
    been computed beside it.
    """

    __slots__ = ("begun", "context", "here", "new", "product", "since", "until", "usable", "waiting")

    def __init__(self, now: float, *, usable: bool) -> None:
        self.since = self.until = now
        self.waiting = self.here = 0
        self.new = self.context = self.product = 0
        self.begun = False
        self.usable = usable

    def join(self) -> None:
        """One more request came."""
        self.waiting += 1
        self.here += 1

    def computed(self, now: float) -> None:
        """One of them has its first token."""
        self.begun = True
        self.waiting -= 1
        self.until = now

    def finished(self, request: Request) -> list[StepTiming]:
        """One of them left. After the last, the cached tokens of all are known, if the server tells."""
        uncached, length = _uncached(request), request.length
        self.here -= 1
        self.new += uncached
        self.context += length
        self.product += uncached * length
        if self.here or not self.usable:
            return []
        return [StepTiming(self.new, self.context, self.context, self.product, 0, self.until - self.since)]


class _Stay(msgspec.Struct, gc=False):
    """A request on a worker: the burst that it came with, if any, and the sums when its first token came."""

    burst: _Burst | None
    uncached: int = 0
    computed_at: float = 0.0
    sums: _Sums | None = None


class _Watch:
    """One worker. A decoding request gets a token with nearly every step, so its tokens count the steps of the worker.

    Example: a request gets 101 tokens, the last one 2 s after the first. So there were 100 steps of 20 ms on average.
    How many other requests decoded meanwhile, with which contexts (taking outputs to be of the same length), and which
    prefills ended, is known as well: the average of these steps is reported as one step. Prefills that began before the
    2 s, or end after them, are cut off by the same amount on average. Cached tokens are those believed, corrected when
    the server reports them.

    Requests that find the worker idle give a timing of their prefills (`_Burst`), unless others come before all of them
    have their first token.
    """

    def __init__(self) -> None:
        self._stays: dict[RequestId, _Stay] = {}
        self._latest: list[_Stay] = []
        self._burst: _Burst | None = None
        self._disturbed = False
        self._sums = _Sums()
        self._decoding = self._context = 0
        self._now = 0.0

    def placed(self, id: RequestId, now: float) -> None:
        """A request came."""
        if not self._stays:  # but it may still compute what has just been aborted
            self._burst, self._disturbed = _Burst(now, usable=not self._disturbed), False
        elif self._burst and self._burst.begun:
            self._burst.usable = self._burst.usable and not self._burst.waiting
            self._burst = None
        if self._burst:
            self._burst.join()
        self._stays[id] = _Stay(self._burst)

    def computed(self, request: Request, now: float) -> None:
        """Its first token came."""
        stay = self._stays[request.id]
        stay.computed_at, stay.uncached = now, _uncached(request)
        self._advance(now)
        self._add(stay.uncached, request.length, request.length)
        if self._latest and now - self._latest[0].computed_at > _SHORTEST:
            self._latest.clear()
        self._latest.append(stay)
        for same in self._latest:  # a prefill done in the same step is not of the steps after it
            same.sums = self._sums
        self._decoding += 1
        self._context += request.length
        if stay.burst:
            stay.burst.computed(now)

    def finished(self, request: Request, tokens: int, now: float) -> list[StepTiming]:
        """It left with so many tokens: return the steps that can be inferred from it."""
        stay, steps, found = self._stays.pop(request.id), tokens - 1, []
        self._advance(now)
        seconds = now - stay.computed_at
        timely = stay.sums is not None and steps * _SHORTEST <= seconds <= max(1, steps) * _LONGEST
        if stay.sums is None:
            self._disturbed = True
        else:
            self._decoding -= 1
            self._context -= request.length
            if timely and steps >= _LEAST_STEPS:
                found.append(_average(stay.sums, self._sums, seconds, steps))
            self._add(_uncached(request) - stay.uncached, request.length, 0)
        if stay.burst:
            stay.burst.usable = stay.burst.usable and timely
            found += stay.burst.finished(request)
        return found

    def check(self, here: Sequence[Request]) -> None:
        """Raise AssertionError unless it watches exactly the requests in flight `here`."""
        decoding = [request for request in here if request.computed]
        assert set(self._stays) == {request.id for request in here}, "it watches others than those in flight"
        assert {id for id, stay in self._stays.items() if stay.sums} == {request.id for request in decoding}, (
            "first tokens"
        )
        assert self._decoding == len(decoding), "requests that decode"
        assert self._context == sum(request.length for request in decoding), "contexts of those that decode"

    def _advance(self, now: float) -> None:
        elapsed, self._now, sums = now - self._now, now, self._sums
        decoding, context = sums.decoding + elapsed * self._decoding, sums.context + elapsed * self._context
        self._sums = _Sums(decoding, context, sums.new, sums.prefill_context, sums.product)

    def _add(self, uncached: int, length: int, context: int) -> None:
        """Count a prefill, or correct one that was counted."""
        sums = self._sums
        new, product = sums.new + uncached, sums.product + uncached * length
        self._sums = _Sums(sums.decoding, sums.context, new, sums.prefill_context + context, product)


class InferredSteps:
    """The workers that do not report their steps, by slot. Calls about other workers do nothing."""

    def __init__(self) -> None:
        self._watches: dict[int, _Watch] = {}

    def watch(self, slot: int) -> None:
        """Infer the steps of the slot's worker, which does not report them."""
        self._watches[slot] = _Watch()

    def forget(self, slot: int) -> None:
        """The worker is gone."""
        self._watches.pop(slot, None)

    def placed(self, request: Request, now: float) -> None:
        """A request came to its slot."""
        if watch := self._watches.get(request.slot):
            watch.placed(request.id, now)

    def computed(self, request: Request, now: float) -> None:
        """Its prefill is done: the first token is here."""
        if watch := self._watches.get(request.slot):
            watch.computed(request, now)

    def finished(self, request: Request, output: bytes, now: float) -> Iterable[StepTiming]:
        """It ended with the packed `output`: return the steps of its slot that can be inferred from it."""
        watch = self._watches.get(request.slot)
        if watch is None:
            return ()
        found = watch.finished(request, len(output) // TOKEN_BYTES, now)
        return [timing for timing in found if timing.plausible]

    def check(self, slot: int, here: Sequence[Request]) -> None:
        """Raise AssertionError unless a slot's watch knows exactly its requests in flight."""
        if watch := self._watches.get(slot):
            watch.check(here)


def _uncached(request: Request) -> int:
    """Return the prompt tokens that were computed; the last one always is."""
    return max(1, request.length - request.cached)


def _average(before: _Sums, after: _Sums, seconds: float, steps: int) -> StepTiming:
    """Return the average of so many steps that took `seconds` in all."""
    decodes = max(1, round((after.decoding - before.decoding) / seconds))
    decoded = round((after.context - before.context) / seconds) + decodes * steps // 2  # outputs are half there
    uncached, product = (max(0, round(n / steps)) for n in (after.new - before.new, after.product - before.product))
    prefill = max(uncached, round((after.prefill_context - before.prefill_context) / steps))
    new = decodes + uncached
    return StepTiming(new, max(new, prefill + decoded), prefill, product, decodes, seconds / steps)
