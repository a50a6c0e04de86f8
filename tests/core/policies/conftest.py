from __future__ import annotations

from itertools import count

from preble.core.scheduler import Scheduler

_ids = count()


def send(
    scheduler: Scheduler, worker: str, tokens: list[int], *, state: str = "waiting", session: str | None = None
) -> int:
    """Bring a request to `worker`, whatever the policy thinks: "waiting", "running" (it decodes) or "done"."""
    id = next(_ids)
    scheduler.submit(id, tokens, max_tokens=1, session=session, worker=worker, now=0.0)
    if state != "waiting":
        scheduler.started(id, cached_tokens=scheduler.explain(id).predicted_cached_tokens, now=0.0)
        scheduler.first_token(id, now=0.0)
    if state == "done":
        scheduler.finish(id, now=0.0)
    return id


def busy(scheduler: Scheduler, **requests: int) -> None:
    """Give each worker so many short requests that decode and share nothing with anything."""
    for worker, many in requests.items():
        for _ in range(many):
            send(scheduler, worker, [10_000 + next(_ids)], state="running")


def ask(scheduler: Scheduler, tokens: list[int], *, session: str | None = None) -> tuple[str, str]:
    """Return where a request goes and why; it is cancelled at once, so that only what it leaves behind stays."""
    id = next(_ids)
    placement = scheduler.submit(id, tokens, max_tokens=1, session=session, now=0.0)
    scheduler.finish(id, now=0.0)
    return placement.worker, placement.reason


def asked(scheduler: Scheduler, tokens: list[int], times: int = 30) -> set[str]:
    """Where a request goes, asked several times; more than one worker where a tie is drawn."""
    return {ask(scheduler, tokens)[0] for _ in range(times)}
