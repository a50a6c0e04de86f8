"""Which workers take new requests now: a circuit breaker for each, and servers that asked to be left alone."""

from __future__ import annotations

from preble.core.scheduler import Scheduler
from preble.dispatch.breaker import Breaker, Failure
from preble.errors import OverloadedError
from preble.types import WorkerEvent, WorkerStatus

FULL_PAUSE = 1.0
"""Seconds for which a worker is left alone that is full and does not say for how long."""

_NEVER = float("inf")


class Health:
    """Is told what becomes of attempts, pauses workers in the scheduler, and lets them go on.

    At most half of the workers that are not drained are paused because of failures: what fails on all of them is not
    their fault. `due` is
    when `on_time` must be called next. `freed` is set when a worker takes requests again, and `events` is what is to be
    told; whoever reads these two resets them.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.due = _NEVER
        self.freed = False
        self.events: list[WorkerEvent] = []
        self._scheduler = scheduler
        self._breakers: dict[str, Breaker] = {}
        self._full_until: dict[str, tuple[float, str]] = {}
        self._adjusted: dict[str, tuple[bool, float]] = {}
        self._tripped: set[str] = set()

    def forget(self, worker: str) -> None:
        """A worker is gone, and with it what was known of it."""
        for known in (self._breakers, self._full_until, self._adjusted):
            known.pop(worker, None)
        self._tripped.discard(worker)

    def status(self, worker: str, now: float) -> tuple[WorkerStatus, str]:
        """Return whether a worker takes requests, and if not, why."""
        if worker in self._tripped:
            breaker = self._breakers[worker]
            return "open" if breaker.is_open(now) else "half_open", breaker.reason
        until, reason = self._full_until.get(worker, (0.0, ""))
        return ("full", reason) if now < until else ("serving", "")

    def sent(self, worker: str, sample: str, now: float) -> None:
        """A sample was sent to a worker. If its breaker is half-open, this one is its probe."""
        if worker in self._tripped:
            breaker = self._breakers[worker]
            if breaker.is_half_open(now) and breaker.probe is None:
                breaker.probe = sample
                self._adjust(worker, now)

    def began(self, worker: str, sample: str, now: float) -> None:
        """The first token of a sample came."""
        if worker in self._tripped and self._breakers[worker].proves_itself(sample, finished=False):
            self._close(worker, now)

    def succeeded(self, worker: str, sample: str, now: float) -> None:
        """A sample ended as it should."""
        breaker = self._breaker(worker)
        if worker in self._tripped and breaker.proves_itself(sample, finished=True):
            self._close(worker, now)
        elif breaker.succeed(now):
            self._adjust(worker, now)

    def failed(self, worker: str, failure: Failure, reason: str, now: float) -> None:
        """An attempt failed, for `reason`, and the request is not known to be at fault."""
        breaker = self._breaker(worker)
        breaker.fail(failure, now)
        if breaker.probe == failure.sample or (breaker.is_bad(now) and self._may_open(worker)):
            self._open(worker, breaker, reason, now)
        self._adjust(worker, now)

    def left(self, worker: str, sample: str, now: float) -> None:
        """A sample left its worker, and nothing is known of how that went."""
        if worker in self._tripped and self._breakers[worker].probe == sample:
            self._breakers[worker].probe = None
            self._adjust(worker, now)

    def full(self, worker: str, seconds: float | None, reason: str, now: float) -> None:
        """A worker refused a request since it has too many. It gets no new ones for so many seconds."""
        self._full_until[worker] = now + (FULL_PAUSE if seconds is None else seconds), reason
        self._adjust(worker, now)

    def overload(self, now: float) -> OverloadedError | None:
        """Return what to say to those that no worker takes, if some are full: when the first of these takes more."""
        live = self._live()
        full = [known for worker, known in self._full_until.items() if worker in live and now < known[0]]
        if not full:
            return None
        until, reason = min(full)
        return OverloadedError(reason, retry_after=until - now)

    def withdraw(self, worker: str, sample: str, now: float) -> None:
        """What failed here failed everywhere: it was no fault of the worker."""
        if (breaker := self._breakers.get(worker)) is not None:
            breaker.withdraw(sample)
            if worker in self._tripped and not breaker.is_bad(now):
                self._close(worker, now, "what failed there failed elsewhere too")
            else:
                self._adjust(worker, now)

    def on_time(self, now: float) -> None:
        """What was due is over."""
        if now >= self.due:
            self.due = _NEVER
            for worker in list(self._adjusted):
                self._adjust(worker, now)

    def _breaker(self, worker: str) -> Breaker:
        found = self._breakers.get(worker)
        if found is None:
            found = self._breakers[worker] = Breaker()
        return found

    def _live(self) -> set[str | None]:
        """The workers that are not drained."""
        fleet = self._scheduler.fleet
        return {fleet.names[slot] for slot in fleet.live}

    def _may_open(self, worker: str) -> bool:
        live = self._live()
        return worker not in self._tripped and 2 * (len(self._tripped & live) + 1) <= len(live)

    def _open(self, worker: str, breaker: Breaker, reason: str, now: float) -> None:
        breaker.trip(reason, now)
        if worker not in self._tripped:
            self._tripped.add(worker)
            self.events.append(WorkerEvent("opened", worker, reason))

    def _close(self, worker: str, now: float, reason: str = "a request went well again") -> None:
        self._breakers[worker].close(now)
        self._tripped.discard(worker)
        self.events.append(WorkerEvent("closed", worker, reason))
        self._adjust(worker, now)

    def _adjust(self, worker: str, now: float) -> None:
        """Tell the scheduler what is new of a worker, and see when that ends."""
        breaker, (full_until, _) = self._breaker(worker), self._full_until.get(worker, (0.0, ""))
        paused = now < full_until or breaker.is_open(now) or breaker.probe is not None
        penalty = breaker.penalty(now)
        before = self._adjusted.get(worker, (False, 0.0))
        if (paused, penalty) != before:
            self._scheduler.adjust_worker(worker, paused=paused, penalty=penalty, now=now)
            self.freed = self.freed or (before[0] and not paused)
        self._adjusted[worker] = paused, penalty
        ends = (full_until, breaker.open_until or 0.0, breaker.forgets_at())
        self.due = min(self.due, *(end for end in ends if end > now), _NEVER)
