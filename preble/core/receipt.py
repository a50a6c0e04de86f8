"""Why a request went where it went: one receipt per decision, kept for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import msgspec

from preble.core.arrays import Floats
from preble.core.cached import CachedTokens
from preble.core.policy import Decision, Query
from preble.types import plain_data


class Candidate(msgspec.Struct, frozen=True):
    """One worker at the moment of a decision, as the policy saw it. A term that the policy does not compute is None.

    `load` (L), `prefill` (P), `eviction` (M) and `future_delay` (D) are in seconds; `weight` (w) says how many times
    the prefill counted. `e2` takes the least `load + weight * prefill + eviction + future_delay`.
    """

    worker: str
    cached_tokens: int
    load: float | None
    prefill: float | None
    eviction: float | None
    weight: float | None = None
    future_delay: float | None = None


class Receipt(msgspec.Struct, frozen=True):
    """A decision, and what came of it. `cached_tokens` and the times (seconds) are None until they are known.

    `queue_time` runs from the decision until the engine began the prefill, as far as the engine tells of it: else until
    it told how much was cached.

    `predicted_cached_tokens` counts prefixes in flight as cached, whatever the policy does.
    """

    id: Hashable
    worker: str
    reason: str
    candidates: tuple[Candidate, ...]
    predicted_cached_tokens: int
    cached_tokens: int | None
    predicted_ttft: float
    ttft: float | None
    queue_time: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return its fields as plain data, for `json.dumps`, FastAPI and pydantic, if `id` is text or a number."""
        return plain_data(self)


class _Entry(msgspec.Struct, gc=False):
    """A decision as it was made, cheap to keep; `Receipts.receipt` spells it out when asked."""

    decision: Decision
    believed: CachedTokens  # not the query: its match would keep the whole prompt
    names: tuple[str | None, ...]
    predicted_ttft: float
    decided_at: float
    cached: int | None = None
    ttft: float | None = None
    queue_time: float | None = None


class Receipts:
    """The last `limit` decisions by request id."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def decided(
        self, id: Hashable, decision: Decision, query: Query, names: tuple[str | None, ...], ttft: float, now: float
    ) -> None:
        """Note a decision among the workers `names` and the predicted TTFT; forget the oldest beyond the limit."""
        self._entries.pop(id, None)
        self._entries[id] = _Entry(decision, query.believed, names, ttft, now)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def started(self, id: Hashable, cached_tokens: int, now: float) -> None:
        """Note what the engine really found cached, and that it began."""
        entry = self._entries.get(id)
        if entry:
            entry.cached = cached_tokens
            entry.queue_time = now - entry.decided_at

    def first_token(self, id: Hashable, now: float) -> None:
        """Note when the first token came."""
        entry = self._entries.get(id)
        if entry:
            entry.ttft = now - entry.decided_at

    def receipt(self, id: Hashable) -> Receipt:
        """Return the receipt. Raises KeyError if the decision is unknown or forgotten."""
        entry = self._entries[id]
        slot = entry.decision.slot
        return Receipt(
            id=id,
            worker=entry.names[slot] or "",
            reason=entry.decision.reason,
            candidates=candidates(entry.decision, entry.believed, entry.names),
            predicted_cached_tokens=entry.believed.on(slot),
            cached_tokens=entry.cached,
            predicted_ttft=entry.predicted_ttft,
            ttft=entry.ttft,
            queue_time=entry.queue_time,
        )


def candidates(decision: Decision, believed: CachedTokens, names: tuple[str | None, ...]) -> tuple[Candidate, ...]:
    """What a decision was made from: an entry per worker; cached is what is `believed` if it does not say otherwise."""
    terms = decision.terms()
    cached = believed.by_slot() if terms.cached is None else terms.cached
    return tuple(
        Candidate(
            worker=worker,
            cached_tokens=int(cached[slot]),
            load=_number(terms.load, slot),
            prefill=_number(terms.prefill, slot),
            eviction=_number(terms.eviction, slot),
            weight=_number(terms.weight, slot),
            future_delay=_number(terms.future_delay, slot),
        )
        for slot, worker in enumerate(names)
        if worker is not None
    )


def _number(term: Floats | None, slot: int) -> float | None:
    return None if term is None else float(term[slot])
