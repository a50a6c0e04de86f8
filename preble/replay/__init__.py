"""Decide a decision log again, under the same policy or another, and compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from preble.core import log
from preble.core.policies import policy_named
from preble.core.policy import Policy
from preble.core.scheduler import Placement, Scheduler
from preble.errors import ConfigurationError, PrebleError


class Totals(msgspec.Struct):
    """All placements of one side: requests by worker, prompt tokens believed cached, predicted TTFT in seconds."""

    requests: dict[str, int] = {}
    cached_tokens: int = 0
    predicted_ttft: float = 0.0

    def add(self, worker: str, cached_tokens: int, predicted_ttft: float) -> None:
        """Count a placement."""
        self.requests[worker] = self.requests.get(worker, 0) + 1
        self.cached_tokens += cached_tokens
        self.predicted_ttft += predicted_ttft


class Difference(msgspec.Struct, frozen=True):
    """A request that went elsewhere: what the log says, and what was decided now."""

    id: str | int
    recorded: Placement
    replayed: Placement


class Comparison(msgspec.Struct):
    """A log and its replay. The scheduler did not choose the placements that were `assigned_by_caller`.

    `first` holds the first placements that differ. `moves` counts the moves that the log proposes; an exact replay
    counts in `moves_differing` the calls of `rebalance` that it answers differently.
    """

    recorded: Totals
    replayed: Totals
    requests: int = 0
    assigned_by_caller: int = 0
    differing: int = 0
    moves: int = 0
    moves_differing: int = 0
    first: list[Difference] = []


class Replay:
    """A recorded log decided again, by its own policy or another.

    With the log's policy and seed the replay is exact: every decision must be the recorded one. With another policy or
    seed, the caches hold something else than the engines reported, so evictions are estimated, and every prompt counts
    as cached as far as the scheduler believes. Times, outputs and workers are as recorded. A placement that the caller
    had assigned, such as a copy's, is assigned again. A request that was moved is submitted again, as in the log;
    `rebalance` is not asked for other moves.
    Raises ConfigurationError if the lines are not a decision log.
    """

    def __init__(self, begin: log.Event | None, policy: str | Policy | None = None, *, seed: int | None = None) -> None:
        """`begin` is the log's first event; `policy` and `seed` are its own if not given."""
        if not isinstance(begin, log.Begin):
            raise ConfigurationError("log: does not begin with its first line")
        self.exact = policy in (None, begin.policy) and seed in (None, begin.seed)
        chosen = policy_named(begin.policy if policy is None else policy)
        self.scheduler = Scheduler(chosen, seed=begin.seed if seed is None else seed)
        self.comparison = Comparison(Totals(), Totals())
        self._believed: dict[str | int, int] = {}

    def take(self, event: log.Event, *, first: int = 10) -> None:
        """Run one event; of differing requests, the `first` are kept."""
        match event:
            case log.Submitted():
                self._submit(event, first)
            case log.Started():
                cached = event.cached_tokens if self.exact else self._believed[event.id]
                self.scheduler.started(event.id, cached_tokens=cached, now=event.now)
            case log.FirstToken():
                self.scheduler.first_token(event.id, now=event.now)
            case log.Finish():
                self.scheduler.finish(event.id, output=event.output, now=event.now)
                self._believed.pop(event.id, None)
            case log.Evict():
                if self.exact:
                    self.scheduler.evicted(
                        event.worker, event.tokens, event.keep, cache_salt=event.cache_salt, now=event.now
                    )
            case log.Observe():
                self.scheduler.observe(event.worker, event.timings, now=event.now)
            case log.Rebalance():
                self._rebalance(event)
            case log.Begin():
                raise ConfigurationError("log: begins twice")
            case _:
                self._change_workers(event)

    def _change_workers(self, event: log.AddWorker | log.DrainWorker | log.AdjustWorker | log.RemoveWorker) -> None:
        match event:
            case log.AddWorker():
                self.scheduler.add_worker(
                    event.worker,
                    kv_tokens=event.kv_tokens,
                    block_size=event.block_size,
                    cost=event.cost,
                    max_batched_tokens=event.max_batched_tokens,
                    discipline=event.discipline,
                    reports_evictions=event.reports_evictions and self.exact,
                    namespaces=event.namespaces,
                    context_limit=event.context_limit,
                    now=event.now,
                )
            case log.DrainWorker():
                self.scheduler.drain_worker(event.worker, now=event.now)
            case log.AdjustWorker():
                self.scheduler.adjust_worker(event.worker, paused=event.paused, penalty=event.penalty, now=event.now)
            case log.RemoveWorker():
                self.scheduler.remove_worker(event.worker, now=event.now)

    def _rebalance(self, event: log.Rebalance) -> None:
        self.comparison.moves += len(event.moves)
        if self.exact:
            found = tuple((move.id, move.source, move.target) for move in self.scheduler.rebalance(event.now))
            self.comparison.moves_differing += found != event.moves

    def _submit(self, event: log.Submitted, first: int) -> None:
        if event.id in self._believed and not self.exact:
            # Its worker was removed in the log; here it may be on another one.
            self.scheduler.finish(event.id, now=event.now)
        replayed = self.scheduler.submit(
            event.id,
            event.tokens,
            max_tokens=event.max_tokens,
            session=event.session,
            priority=event.priority,
            namespace=event.namespace,
            tenant=event.tenant,
            worker=event.worker,
            excluded=event.excluded,
            now=event.now,
        )
        self._believed[event.id] = replayed.cached_tokens
        self._compare(event, replayed, first)

    def _compare(self, event: log.Submitted, replayed: Placement, first: int) -> None:
        recorded = Placement(event.chosen, event.cached_tokens, event.reason, event.predicted_ttft)
        comparison = self.comparison
        comparison.requests += 1
        comparison.assigned_by_caller += event.worker is not None
        comparison.recorded.add(recorded.worker, recorded.cached_tokens, recorded.predicted_ttft)
        comparison.replayed.add(replayed.worker, replayed.cached_tokens, replayed.predicted_ttft)
        # Decided by the same policy and seed, the same worker for another reason is a difference too.
        if recorded.worker != replayed.worker or (self.exact and recorded != replayed):
            comparison.differing += 1
            if len(comparison.first) < first:
                comparison.first.append(Difference(event.id, recorded, replayed))


def replay(
    lines: Iterable[bytes], policy: str | Policy | None = None, *, seed: int | None = None, first: int = 10
) -> Comparison:
    """Decide the log `lines` again under another policy or seed, and compare.

    Without `policy` and `seed` they are the log's own. The comparison keeps the `first` requests that differ. Raises
    ConfigurationError, which names the line that is wrong or does not follow from those before.
    """
    events = _events(lines)
    again = Replay(next(events, None), policy, seed=seed)
    for number, event in enumerate(events, 2):
        try:
            again.take(event, first=first)
        except (KeyError, PrebleError) as error:
            raise ConfigurationError(f"log: line {number} does not follow from those before: {error}") from error
    return again.comparison


def _events(lines: Iterable[bytes]) -> Iterator[log.Event]:
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") and len(line) <= log.MAX_LINE:
            return  # cut short: whoever wrote it died
        try:
            yield log.decode(line)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error} (line {number})") from None
