"""SMetric: sessions stay while their worker is fast enough, the rest goes where prefill work times load is least."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Hashable

from preble.core.fleet import Fleet
from preble.core.policies.baselines.guess import GuessIndex
from preble.core.policy import Decision, Query
from preble.core.request import Request

SAMPLES = 64
"""Rates that are remembered per worker."""
ENOUGH = 8
"""With fewer the rate is unknown."""
_SESSIONS = 100_000
"""Sessions whose previous prompt length is remembered."""


class _Prefills:
    """One worker's outstanding prompt tokens, and how many a second its first tokens have shown."""

    __slots__ = ("pending", "rate", "samples")

    def __init__(self) -> None:
        self.pending = 0
        self.rate: float | None = None
        self.samples: deque[float] = deque(maxlen=SAMPLES)

    def saw(self, rate: float) -> None:
        """Learn the 90th percentile of what was seen."""
        self.samples.append(rate)
        if len(self.samples) >= ENOUGH:
            self.rate = sorted(self.samples)[round(0.9 * (len(self.samples) - 1))]


class Smetric:
    """The rule of SMetric (arXiv 2607.08565; vllm-project/router 8bef7312, `src/policies/smetric.rs`).

    The work q of a worker is its outstanding uncached prompt tokens, this request's included; it is fast enough if q at
    its rate takes at most `slack * (base + per_token * length)` seconds, or its rate is unknown. A later turn of a
    session goes to the worker with the longest match, if that is more than `hit` of the previous turn's prompt, and it
    is fast enough or nobody is. Everything else goes to the least q times requests in flight. Ties: the scan starts one
    worker further each time. Constants: slack 1, 1 s and 62.5 ms per 1000 tokens, hit 0.5; work is linear in tokens.
    State: own guess index (2^26 characters per worker, taken as 2^24 tokens, cut every 30 s), own outstanding work
    (charged when placed, released at the first token or the end), rates from first tokens, counts of requests.
    The original sees an assistant's message in the prompt; here a later turn is one whose `session` was seen before.
    """

    def __init__(
        self,
        *,
        slack: float = 1.0,
        base: float = 1.0,
        per_token: float = 62.5e-6,
        hit: float = 0.5,
        limit: int = 1 << 24,
    ) -> None:
        """`base` and `per_token` are in seconds, `hit` is a share, `limit` in tokens per worker."""
        self.slack = slack
        self.base = base
        self.per_token = per_token
        self.hit = hit
        self.index = GuessIndex(limit=limit, interval=30.0)
        self._prefills: defaultdict[int, _Prefills] = defaultdict(_Prefills)
        self._charged: dict[Hashable, tuple[int, int]] = {}
        self._turns: OrderedDict[str, int] = OrderedDict()
        self._scan = 0

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the session's slot, or that of the least work times requests."""
        live = fleet.require_live()
        start = self._scan % len(live)
        self._scan += 1
        order = live[start:] + live[:start]
        match = self.index.match(query.match.prompt)
        held = {slot: match.length(slot) for slot in order}
        work = {slot: self._prefills[slot].pending + query.length - held[slot] for slot in order}
        holder = max(order, key=held.__getitem__)
        if self._returns(query.session, held[holder]) and self._stays(holder, work, query.length):
            return Decision(holder, "session")
        return Decision(min(order, key=lambda slot: work[slot] * fleet.requests[slot]), "least work times requests")

    def _returns(self, session: str | None, held: int) -> bool:
        previous = self._turns.get(session) if session is not None else None
        return previous is not None and held > self.hit * previous

    def _stays(self, holder: int, work: dict[int, int], length: int) -> bool:
        limit = self.slack * (self.base + self.per_token * length)
        fast = {slot for slot, tokens in work.items() if tokens <= limit * (self._prefills[slot].rate or float("inf"))}
        return holder in fast or not fast

    def placed(self, request: Request, now: float) -> None:
        """Charge the work, enter the prompt, remember the turn."""
        work = request.length - self.index.match(request.tokens).length(request.slot)
        self._charged[request.id] = (request.slot, work)
        self._prefills[request.slot].pending += work
        self.index.enter(request.tokens, request.slot, now)
        if request.session is not None:
            self._turns[request.session] = request.length
            self._turns.move_to_end(request.session)
            if len(self._turns) > _SESSIONS:
                self._turns.popitem(last=False)

    def computed(self, request: Request, now: float) -> None:
        """Release the work, and learn from it."""
        work, seconds = self._release(request), now - request.submitted_at
        if work > 0 and seconds > 0:
            self._prefills[request.slot].saw(work / seconds)

    def finished(self, request: Request, output: bytes, now: float) -> None:
        """Release the work if the prefill did not."""
        self._release(request)

    def _release(self, request: Request) -> int:
        slot, work = self._charged.pop(request.id, (request.slot, 0))
        self._prefills[slot].pending -= work
        return work

    def worker_removed(self, slot: int, now: float) -> None:
        """Forget the worker."""
        self._prefills.pop(slot, None)
        self.index.forget(slot)

    def check(self) -> None:
        """Raise AssertionError if outstanding work is not what was charged."""
        self.index.check()
        for slot, prefills in self._prefills.items():
            charged = sum(work for at, work in self._charged.values() if at == slot)
            assert prefills.pending == charged, f"slot {slot}: outstanding work"
